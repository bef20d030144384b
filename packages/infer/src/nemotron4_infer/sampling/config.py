"""The settings by which the next token is chosen.

Invariant: the same settings, prompt and weights give the same text on the same machine.
Source: top-k from arXiv 1805.04833 section 5.4, top-p (nucleus) from arXiv 1904.09751 section 3.1, min-p from
arXiv 2407.01082 section 3, the repetition penalty from arXiv 1909.05858 section 4.1; presence and frequency penalties
are those of OpenAI's API.
"""

import math
from dataclasses import dataclass, field

from nemotron4_common.rules import require

MAX_STOPS, MAX_STOP_CHARACTERS, MAX_BIASES = 16, 256, 300


@dataclass(kw_only=True)
class SamplingConfig:
    """Greedy by default; a temperature above 0 draws from the distribution that top_k, top_p and min_p leave."""

    temperature: float = 0.0
    """Number that divides the logits: 0 takes the most likely token (greedy), 1 is the model's own distribution."""

    top_k: int | None = None
    """Draw from this many of the most likely tokens; null means all."""

    top_p: float = 1.0
    """Draw from the fewest most likely tokens whose probabilities add up to at least this; 1 means all."""

    min_p: float = 0.0
    """Draw from the tokens at least this fraction as likely as the most likely one; 0 means all."""

    repetition_penalty: float = 1.0
    """Divides positive logits, and multiplies negative ones, of the tokens of prompt and text so far; 1 is off."""

    presence_penalty: float = 0.0
    """Is subtracted from the logits of tokens that were generated before, -2 to 2; 0 is off."""

    frequency_penalty: float = 0.0
    """Is subtracted from a token's logit for each time that it was generated before, -2 to 2; 0 is off."""

    logit_bias: dict[int, float] = field(default_factory=dict)
    """Numbers from -100 to 100 to add to the logits of token ids."""

    stop: list[str] = field(default_factory=list)
    """Texts that end the generation; the text ends before the first of them."""

    stop_token_ids: list[int] = field(default_factory=list)
    """Token ids that end the generation, as the end-of-sequence token does."""

    ignore_eos: bool = False
    """Whether to go on after an end-of-sequence token."""

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
        require(0 <= self.min_p <= 1, "sampling.min_p", self.min_p, "must be in [0, 1]; 0 keeps all tokens")
        penalty, rule = self.repetition_penalty, "must be a finite number above 0; 1 is off"
        require(0 < penalty < float("inf"), "sampling.repetition_penalty", penalty, rule)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            require(-2 <= value <= 2, f"sampling.{name}", value, "must be in [-2, 2]; 0 is off")
        count, rule = len(self.logit_bias), f"must have at most {MAX_BIASES} entries"
        require(count <= MAX_BIASES, "sampling.logit_bias", f"{count} entries", rule)
        for token, bias in self.logit_bias.items():
            ok = math.isfinite(bias) and -100 <= bias <= 100
            require(ok, f"sampling.logit_bias.{token}", bias, "must be in [-100, 100]")
        count, rule = len(self.stop), f"must have at most {MAX_STOPS} texts"
        require(count <= MAX_STOPS, "sampling.stop", f"{count} texts", rule)
        for stop in self.stop:
            rule = f"must have 1 to {MAX_STOP_CHARACTERS} characters"
            require(0 < len(stop) <= MAX_STOP_CHARACTERS, "sampling.stop", repr(stop[:20]), rule)
        require(0 <= self.seed < 2**63, "sampling.seed", self.seed, "must be in [0, 2^63)")
        require(self.max_new_tokens >= 0, "sampling.max_new_tokens", self.max_new_tokens, "must be at least 0")
