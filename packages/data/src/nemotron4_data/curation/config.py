"""What curation does. Light on purpose: nothing but the standard library is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from .dedup_config import DedupConfig


@dataclass(kw_only=True)
class CurationConfig:
    """The steps between raw records and documents."""

    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Exact and near deduplication."""
