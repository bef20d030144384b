"""Settings of exact and near deduplication."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class DedupConfig:
    """Which copies of a document are dropped."""

    exact: bool = False
    """Drop documents whose text equals an older one's byte by byte."""
