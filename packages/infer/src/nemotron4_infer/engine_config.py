"""The engine's settings, which `generate` and `serve` share."""

from dataclasses import dataclass
from enum import Enum

from nemotron4_common.rules import require


class Quantisation(Enum):
    """A format of linear weights that is narrower than the activations."""

    int8 = "int8"
    int4 = "int4"
    fp8 = "fp8"


@dataclass(kw_only=True)
class EngineConfig:
    """How much runs at once, and in what format."""

    quantization: Quantisation | None = None
    """Quantise the linear weights at load: int8, int4 (groups of 128) or, on CUDA, fp8; null keeps the directory's."""

    cache_tokens: int | None = None
    """Tokens that the key/value cache holds, over all requests, those that run and prompts that are kept for later
    ones; null means what fits, but no more than can be used."""

    max_running: int = 64
    """Most sequences that are computed at once; further ones wait."""

    max_waiting: int = 1024
    """Most sequences that wait while engine.max_running run; a request beyond is turned away."""

    step_tokens: int | None = None
    """Most tokens of one step: each running sequence's next, then parts of new prompts. Fewer keep the steps, and so
    the gaps between streamed tokens, short; null means 128 on a CPU and 2,048 on a GPU. It is never less than
    engine.max_running and a page (64 tokens on a CPU), so that prompts move on however many sequences run."""

    prefix_cache: bool = True
    """Whether the keys and values of prompts are kept and reused by prompts that begin alike."""

    prompt_lookup: bool = True
    """Whether greedy requests guess next tokens from the text so far, where few run at once; the text is the same."""

    tensor: int = 1
    """GPUs (on a CPU, processes) that share each layer's weights; must divide model.num_key_value_heads,
    model.intermediate_size and model.vocab_size."""

    equal_bits: bool = False
    """On a GPU, whether a text is the same in bits whatever else runs. Single tokens are then always computed
    engine.max_running at a time and prompts a page at a time, so fewer rows cost as much as that many: what it costs
    has not been measured. On a CPU it is so anyway, unless a line at load says that the processor does not allow it."""

    compile: bool = False
    """On a GPU, whether torch.compile makes one kernel of the small operations between two matrix products; the first
    answer waits for the compiler. What it gains has not been measured."""

    def __post_init__(self) -> None:
        require(self.tensor >= 1, "engine.tensor", self.tensor, "must be at least 1")
        if self.quantization is not None:
            rule = f"must be 1 with engine.quantization={self.quantization.value}; set one of them to its default"
            require(self.tensor == 1, "engine.tensor", self.tensor, rule)
        for name in ("cache_tokens", "step_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"engine.{name}", value, "must be at least 1, or null")
        require(self.max_running >= 1, "engine.max_running", self.max_running, "must be at least 1")
        require(self.max_waiting >= 0, "engine.max_waiting", self.max_waiting, "must be at least 0")
        if self.step_tokens is not None:
            rule = f"must be at least engine.max_running ({self.max_running}), a token for each running sequence"
            require(self.step_tokens >= self.max_running, "engine.step_tokens", self.step_tokens, rule)

    def most_step_tokens(self, page_tokens: int, *, on_gpu: bool) -> int:
        """Most tokens of one step: `step_tokens`, or room for a token of each running sequence and a page."""
        return max(self.step_tokens or (2_048 if on_gpu else 128), self.max_running + page_tokens)
