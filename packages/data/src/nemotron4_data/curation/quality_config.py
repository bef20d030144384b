"""Configuration of the language-model quality filter; light, so that composing jobs imports little.

Source: CCNet, arXiv 1911.00359, section 3.4 (perplexity under a model of a reference source, buckets by language); the
percentiles 30 and 60 are those of its published code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nemotron4_common.rules import require

from .config_checks import refuse_code

BUCKETS = ("head", "middle", "tail")


@dataclass(kw_only=True)
class QualityConfig:
    """Score documents by bits per byte under a language model and keep the buckets of the likelier ones."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged. The scorer must have learnt their languages."""
    model_dir: str = ""
    """Model directory of the scorer: the export of `nemotron4 train experiment=quality_scorer`."""
    scorer: str = "nemotron"
    """Name of an installed scorer, or the place of one as module:factory."""
    percentiles: list[float] = field(default_factory=lambda: [30.0, 60.0])
    """Percentiles of each language's scores: up to the first is head, up to the second middle, the rest tail."""
    keep: list[str] = field(default_factory=lambda: ["head", "middle"])
    """Buckets that stay, of head, middle and tail."""
    max_tokens: int = 256
    """Tokens, from its beginning, by which a document is judged."""

    def __post_init__(self) -> None:
        valid = len(self.percentiles) == 2 and 0 <= self.percentiles[0] <= self.percentiles[1] <= 100
        rule = "must be two numbers from 0 to 100, the lower first, as in [30, 60]"
        require(valid, "curation.quality.percentiles", self.percentiles, rule)
        valid = bool(self.keep) and set(self.keep) <= set(BUCKETS)
        require(valid, "curation.quality.keep", self.keep, f"must name at least one of {', '.join(BUCKETS)}")
        refuse_code("quality", self.domains, "the reference is prose; code has curation.code")
        how = "train and export one with `nemotron4 train experiment=quality_scorer`"
        rule = f"must name the directory of the scorer; {how}"
        require(bool(self.model_dir) or not self.domains, "curation.quality.model_dir", "''", rule)
        require(self.max_tokens >= 1, "curation.quality.max_tokens", self.max_tokens, "must be at least 1")
