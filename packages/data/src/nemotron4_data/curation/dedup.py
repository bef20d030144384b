"""Deduplication over work shards: equal texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..documents import read_lines
from ..executor import Executor
from .dedup_config import DedupConfig


class Drop(NamedTuple):
    """Why a document goes, and the one that stays for it."""

    reason: str
    kept_id: str


def deduplicate(shards: Sequence[Path], config: DedupConfig, work: Path, executor: Executor) -> list[dict[int, Drop]]:
    """For each shard the lines to drop, numbered from 0."""
    kept: dict[bytes, str] = {}
    drops: list[dict[int, Drop]] = []
    for shard in shards:
        drops.append({})
        for number, line in enumerate(read_lines(shard) if config.exact else ()):
            document = json.loads(line)
            digest = hashlib.sha256(document["text"].encode()).digest()[:16]
            if digest in kept:
                drops[-1][number] = Drop("exact", kept[digest])
            else:
                kept[digest] = document["id"]
    return drops
