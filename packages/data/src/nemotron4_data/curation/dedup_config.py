"""Settings of exact and near deduplication.

Source of the near defaults: word 5-grams and Jaccard 0.8 as in "Deduplicating Training Data Makes Language Models
Better" (arXiv 2107.06499, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_common.rules import require


@dataclass(kw_only=True)
class DedupConfig:
    """Which copies of a document are dropped: equal texts, and texts whose sets of shingles are alike."""

    exact: bool = False
    """Drop documents whose text equals an older one's byte by byte."""
    near: bool = False
    """Drop documents whose Jaccard similarity to an older one that is kept reaches `threshold`."""
    threshold: float = 0.8
    """Jaccard similarity of two sets of shingles from which they count as near duplicates."""
    shingle_words: int = 5
    """Words in a shingle; in scripts without spaces each character counts as a word."""
    bands: int = 20
    """Bands of the MinHash signature; documents that agree in one are compared."""
    rows: int = 6
    """MinHash values in a band: a pair of similarity s is found with probability 1 - (1 - s**rows)**bands."""
    memory_megabytes: int = 1024
    """Megabytes of memory that the joins over all documents may take before they spill to disk."""

    def __post_init__(self) -> None:
        require(0 < self.threshold <= 1, "curation.dedup.threshold", self.threshold, "must be above 0 and at most 1")
        for name, low in (("shingle_words", 1), ("bands", 1), ("rows", 1), ("memory_megabytes", 128)):
            value = getattr(self, name)
            require(value >= low, f"curation.dedup.{name}", value, f"must be at least {low}")
