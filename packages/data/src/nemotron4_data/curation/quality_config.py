"""Configuration of the language-model quality filter; light, so that composing jobs imports little.

Source: CCNet, arXiv 1911.00359, section 3.4 (perplexity under a model of a reference source, buckets by language); the
percentiles 30 and 60 are those of its published code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] <= self.percentiles[1] <= 100:
            raise ValueError(
                f"curation.quality.percentiles ({self.percentiles}) must be two numbers from 0 to 100, the lower "
                f"first, as in [30, 60]"
            )
        if not self.keep or not set(self.keep) <= set(BUCKETS):
            raise ValueError(f"curation.quality.keep ({self.keep}) must name at least one of {', '.join(BUCKETS)}")
        if "code" in self.domains:
            raise ValueError(
                f"curation.quality.domains ({self.domains}) must not name code: the reference is prose; code has "
                f"curation.code"
            )
        if self.domains and not self.model_dir:
            raise ValueError(
                "curation.quality.model_dir ('') must name the directory of the scorer: train and export one with "
                "`nemotron4 train experiment=quality_scorer`"
            )
        if self.max_tokens < 1:
            raise ValueError(f"curation.quality.max_tokens ({self.max_tokens}) must be at least 1")
