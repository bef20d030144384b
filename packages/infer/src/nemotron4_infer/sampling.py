"""How the next token is chosen.

Invariant: the same settings, prompt and weights give the same text on the same machine.
Source: top-k from arXiv 1805.04833 section 5.4, top-p (nucleus) from arXiv 1904.09751 section 3.1.
"""

from dataclasses import dataclass

from nemotron4_common.rules import require


@dataclass(kw_only=True)
class SamplingConfig:
    """Greedy by default; a temperature above 0 draws from the distribution that top_k and top_p leave."""

    temperature: float = 0.0
    """Number that divides the logits: 0 takes the most likely token (greedy), 1 is the model's own distribution."""

    top_k: int | None = None
    """Draw from this many of the most likely tokens; null means all."""

    top_p: float = 1.0
    """Draw from the fewest most likely tokens whose probabilities add up to at least this; 1 means all."""

    seed: int = 0
    """Seed of the draws."""

    max_new_tokens: int = 128
    """Most tokens to generate; fewer when the model ends the text or its context is full."""

    def __post_init__(self) -> None:
        temperature, top_k = self.temperature, self.top_k
        rule = "must be 0 (greedy) or a finite number above 0"
        require(0 <= temperature < float("inf"), "sampling.temperature", temperature, rule)
        require(top_k is None or top_k >= 1, "sampling.top_k", top_k, "must be at least 1, or null for all tokens")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "must be in (0, 1]; 1 keeps all tokens")
        require(0 <= self.seed < 2**63, "sampling.seed", self.seed, "must be in [0, 2^63)")
        require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "must be at least 1")
