"""The shape of a Nemotron-4 model and what follows from it: parameter counts, FLOPs, presets.

Invariant: every ModelConfig that exists describes a valid model; every number that follows from its fields is computed
here and nowhere else.
Source: Nemotron-4 15B (arXiv 2402.16819) section 2 and Table 1; FFN width, norm, rotary and initialisation settings,
which the paper leaves out, are from NVIDIA's NeMo recipe for the same model.
"""

import math
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

_PRESETS = Path(__file__).parent / "presets"
_FROM_DIRECTORY = "from_directory"  # an option of the group, with no numbers of its own


class Recompute(Enum):
    """Which activations of a block are recomputed in backward instead of being kept."""

    none = "none"
    """None: fastest, most memory."""

    selective = "selective"
    """Those that are large and cheap: norms, rotation, squared ReLU, and attention that no fused kernel computes."""

    full = "full"
    """All but the block's input: a third more work, least memory."""


@dataclass(kw_only=True)
class ModelConfig:
    """One decoder-only transformer: pre-LayerNorm, grouped-query attention, squared-ReLU MLP, partial RoPE, untied."""

    vocab_size: int
    """Tokens in the vocabulary: rows of the embedding and of the output head."""

    hidden_size: int
    """Dimensions of the residual stream."""

    intermediate_size: int
    """Dimensions inside the MLP (4 x hidden_size in Nemotron-4)."""

    num_layers: int
    """Number of transformer blocks."""

    num_attention_heads: int
    """Number of query heads."""

    num_key_value_heads: int
    """Number of key/value heads; each serves num_attention_heads / num_key_value_heads query heads."""

    head_dim: int | None = None
    """Dimensions of one attention head; null means hidden_size / num_attention_heads."""

    rotary_fraction: float = 0.5
    """Fraction of each head's dimensions, from the first on, that get rotary position embedding."""

    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths, a pure number."""

    norm_eps: float = 1e-5
    """Number added to the variance in LayerNorm."""

    init_std: float = 0.0134
    """Standard deviation of initial weights; residual projections use init_std / sqrt(2 * num_layers)."""

    max_sequence_length: int = 4_096
    """Longest sequence that the model accepts, in tokens."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_sequence_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} ({getattr(self, name)}): must be at least 1")
        for name in ("rope_theta", "norm_eps", "init_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"model.{name} ({getattr(self, name)}): must be greater than 0 and finite")
        self._check_heads()

    def _check_heads(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"model.num_key_value_heads ({self.num_key_value_heads}): must divide "
                f"model.num_attention_heads ({self.num_attention_heads})"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"model.hidden_size ({self.hidden_size}): must be a multiple of model.num_attention_heads "
                f"({self.num_attention_heads}); or set model.head_dim"
            )
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"model.head_dim ({self.head_dim}): must be at least 1, or null")
        if not 0 < self.rotary_fraction <= 1:
            raise ValueError(f"model.rotary_fraction ({self.rotary_fraction}): must be in (0, 1]")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"model.rotary_fraction ({self.rotary_fraction}): must rotate an even number of dimensions, at least "
                f"2, but rotates {self.rotary_dim} of a head's {self.attention_head_dim}; change it or model.head_dim"
            )

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """Read a shipped model by name, e.g. `nemotron4_15b`; ValueError lists the known names."""
        known = preset_names()
        if name not in known:
            raise ValueError(f"model ({name}): is not a preset; choose one of: {', '.join(known)}")
        return cls(**_read_flat_yaml(_PRESETS / f"{name}.yaml"))

    @property
    def attention_head_dim(self) -> int:
        """Width of one attention head: head_dim, or what it defaults to."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Dimensions of each head that are rotated."""
        return int(self.attention_head_dim * self.rotary_fraction)

    @property
    def query_width(self) -> int:
        """Width of all queries of a token: the columns of attention's output projection."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def key_value_width(self) -> int:
        """Width of all keys of a token, and of all its values."""
        return self.num_key_value_heads * self.attention_head_dim

    @property
    def num_queries_per_key_value_head(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def _block_matrix_parameters(self) -> int:
        attention = 2 * self.hidden_size * (self.query_width + self.key_value_width)
        return attention + 2 * self.hidden_size * self.intermediate_size

    @property
    def _output_head_parameters(self) -> int:
        """Parameters of the output head; the input embedding has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def num_embedding_parameters(self) -> int:
        """Parameters of the input embedding and of the output head, which are separate matrices."""
        return 2 * self._output_head_parameters

    @property
    def num_non_embedding_parameters(self) -> int:
        """Parameters of the blocks and of all norms: everything but the input embedding and the output head."""
        norms = (2 * self.num_layers + 1) * 2 * self.hidden_size
        return self.num_layers * self._block_matrix_parameters + norms

    @property
    def num_parameters_without_input_embedding(self) -> int:
        """Everything but the input embedding, which takes part in no matrix product: the N of scaling laws."""
        return self.num_non_embedding_parameters + self._output_head_parameters

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        return self.num_non_embedding_parameters + self.num_embedding_parameters

    @property
    def rotary_table_bytes(self) -> int:
        """Bytes of the fp32 cosines and sines of every position; each device has a full copy."""
        return 4 * self.max_sequence_length * self.rotary_dim

    def flops_per_token(self, sequence_length: int, causal: bool = False) -> int:
        """Floating-point operations to train on one token (forward + backward) at this sequence length.

        Two operations per multiply-add; backward is twice forward; matrix products and attention only; the output
        head counts; the embedding look-up, norms and recomputation do not. `causal=False` counts attention as a full
        square: the convention of the paper's MFU (arXiv 2402.16819 Table 2) and of NVIDIA's benchmarks.
        `causal=True` counts each attended (query, key) pair once, (sequence_length + 1) / 2 keys per query.
        """
        matrices = self.num_layers * self._block_matrix_parameters + self._output_head_parameters
        keys_twice = sequence_length + 1 if causal else 2 * sequence_length
        return 6 * matrices + 6 * self.num_layers * self.query_width * keys_twice

    def key_value_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        """Bytes that one token takes in a key/value cache over all layers: 131,072 in bf16 for Nemotron-4 15B."""
        return 2 * self.num_layers * self.key_value_width * bytes_per_element

    def activation_bytes_per_token(self, bytes_per_element: int = 4, recompute: Recompute = Recompute.none) -> int:
        """Bytes that the blocks keep for backward, per token, not compiled, in one precision, on one device.

        Without recomputation a block keeps its two inputs and their two norms (4 x hidden), query, key and value as
        attention reads them, attention's output, and relu(x) and its square. Selectively, it keeps its input, the
        outputs of attention's two projections and of the MLP's first, and attention's output. Fully, its input only.
        Left out: statistics of norms and softmax (under 1 %), the embedding's output, the final norm, and what blocked
        attention on a CPU changes (kernels/attention.py: it keeps its weights; selectively, nothing).
        """
        attention = 2 * self.query_width + 2 * self.key_value_width
        elements = {
            Recompute.none: 4 * self.hidden_size + attention + 2 * self.intermediate_size,
            Recompute.selective: 2 * self.hidden_size + attention + self.intermediate_size,
            Recompute.full: self.hidden_size,
        }
        return self.num_layers * elements[recompute] * bytes_per_element


def preset_names() -> list[str]:
    """The names that ModelConfig.preset accepts, sorted."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml") if path.stem != _FROM_DIRECTORY)


def _read_flat_yaml(path: Path) -> dict[str, Any]:
    """Read `key: value` lines and comments, the only YAML in preset files, so that no YAML package is needed.

    Values are int (underscores allowed) or float, by the type of the ModelConfig field; `null` is None.
    """
    types = {field.name: field.type for field in fields(ModelConfig)}
    values: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        key, colon, text = (part.strip() for part in content.partition(":"))
        if not colon or key not in types:
            raise ValueError(f"{path.name}: line ({line!r}): must be `key: value`, with a key of ModelConfig")
        values[key] = None if text == "null" else float(text) if types[key] is float else int(text)
    return values
