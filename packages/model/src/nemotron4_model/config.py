"""The shape of a Nemotron-4 model and what follows from it: parameter counts, FLOPs, presets.

Invariant: a ModelConfig that exists is a valid model; every derived number is computed here and nowhere else.
Source: Nemotron-4 15B (arXiv 2402.16819) section 2 and Table 1; FFN width, norm, rotary and init settings, which
the paper leaves out, from NVIDIA's NeMo recipe for the same model.
"""

import math
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

_PRESETS = Path(__file__).parent / "presets"


class Recompute(Enum):
    """Which activations of a block are computed again in backward instead of being kept."""

    none = "none"
    """None: the fastest, and the most memory."""

    selective = "selective"
    """What is large and cheap: norms, rotation, squared ReLU, and attention where no fused kernel does it."""

    full = "full"
    """All but the block's input: a third more work, and the least memory."""


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
                raise ValueError(f"model.{name} ({getattr(self, name)}) must be at least 1")
        for name in ("rope_theta", "norm_eps", "init_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"model.{name} ({getattr(self, name)}) must be greater than 0 and finite")
        self._check_heads()

    def _check_heads(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"model.num_key_value_heads ({self.num_key_value_heads}) must divide "
                f"model.num_attention_heads ({self.num_attention_heads})"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"model.hidden_size ({self.hidden_size}) must be a multiple of model.num_attention_heads "
                f"({self.num_attention_heads}); or set model.head_dim"
            )
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"model.head_dim ({self.head_dim}) must be at least 1, or null")
        if not 0 < self.rotary_fraction <= 1:
            raise ValueError(f"model.rotary_fraction ({self.rotary_fraction}) must be in (0, 1]")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"model.rotary_fraction ({self.rotary_fraction}) turns {self.rotary_dim} of the "
                f"{self.attention_head_dim} dimensions of a head; it must turn an even number, at least 2"
            )

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """Read a shipped model by name, e.g. `nemotron4_15b`; ValueError lists the known names."""
        known = preset_names()
        if name not in known:
            raise ValueError(f"model ({name}) is not a preset; choose one of: {', '.join(known)}")
        return cls(**_read_flat_yaml(_PRESETS / f"{name}.yaml"))

    @property
    def attention_head_dim(self) -> int:
        """Width of one attention head, resolved."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of each head are rotated."""
        return int(self.attention_head_dim * self.rotary_fraction)

    @property
    def _block_matrix_parameters(self) -> int:
        query_width = self.num_attention_heads * self.attention_head_dim
        key_value_width = self.num_key_value_heads * self.attention_head_dim
        attention = 2 * self.hidden_size * (query_width + key_value_width)
        return attention + 2 * self.hidden_size * self.intermediate_size

    @property
    def num_non_embedding_parameters(self) -> int:
        """Parameters of the blocks and of all norms: everything but the embedding and the output head."""
        norms = (2 * self.num_layers + 1) * 2 * self.hidden_size
        return self.num_layers * self._block_matrix_parameters + norms

    @property
    def num_parameters(self) -> int:
        """All parameters; the embedding and the output head are separate matrices."""
        return self.num_non_embedding_parameters + 2 * self.vocab_size * self.hidden_size

    def flops_per_token(self, sequence_length: int, causal: bool = False) -> int:
        """Floating-point operations to train on one token (forward + backward) at this sequence length.

        Two operations per multiply-add; backward is twice forward; matrix products and attention only; the output
        head counts, the embedding look-up, norms and recomputation do not. `causal=False` counts attention as a full
        square: the convention of the paper's MFU (arXiv 2402.16819 Table 2) and of NVIDIA's benchmarks.
        `causal=True` counts each attended (query, key) pair once, (sequence_length + 1) / 2 keys a query.
        """
        matrices = self.num_layers * self._block_matrix_parameters + self.vocab_size * self.hidden_size
        query_width = self.num_attention_heads * self.attention_head_dim
        keys_twice = sequence_length + 1 if causal else 2 * sequence_length
        return 6 * matrices + 6 * self.num_layers * query_width * keys_twice

    def key_value_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        """Bytes that one token takes in a key/value cache over all layers: 131,072 in bf16 for Nemotron-4 15B."""
        return 2 * self.num_layers * self.num_key_value_heads * self.attention_head_dim * bytes_per_element

    def activation_bytes_per_token(self, bytes_per_element: int = 4, recompute: Recompute = Recompute.none) -> int:
        """Bytes that the blocks keep of one token for backward, not compiled, in one precision, on one device.

        Without recomputation a block keeps its two inputs and two normalised ones (4 x hidden), query, key and value
        as attention reads them, its output, and relu(x) and its square; selectively its input, what the two
        projections of attention and the first of the MLP gave, and attention's output; else its input. Statistics of
        norms and softmax (under 1 %), the embedding's output and the final norm are left out, and what attention of
        sequences that cpu_attention.py takes changes: it keeps its weights, and selectively nothing.
        """
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        attention = heads * self.attention_head_dim
        elements = {
            Recompute.none: 4 * self.hidden_size + attention + 2 * self.intermediate_size,
            Recompute.selective: 2 * self.hidden_size + attention + self.intermediate_size,
            Recompute.full: self.hidden_size,
        }
        return self.num_layers * elements[recompute] * bytes_per_element


def preset_names() -> list[str]:
    """Names accepted by ModelConfig.preset, sorted."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def _read_flat_yaml(path: Path) -> dict[str, Any]:
    """Read `key: value` lines and comments: the only YAML the preset files use, so that no YAML package is needed.

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
            raise ValueError(f"{path.name}: line {line!r} is not `key: value` with a key of the model configuration")
        values[key] = None if text == "null" else float(text) if types[key] is float else int(text)
    return values
