"""What a reader yields: raw records and refusals, each with its place in the file.

Invariant: every record that a file holds, and every stretch of it that cannot be read, is one item.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_SHOWN_BYTES = 4_000


@dataclass(slots=True)
class Record:
    """One raw record: its place in the file ("line 3", "pages/a.html"), and its value, a mapping if it is valid."""

    position: str
    value: object
    raw: bytes = b""
    """The original bytes of the record, if it was stored as bytes."""


@dataclass(slots=True)
class Refusal:
    """What cannot be a record: its place, the reason, and its beginning."""

    position: str
    reason: str
    raw: bytes = b""
    unread: tuple[int, int] | None = None
    """Of a damaged file or member of an archive: bytes that were not read or gave nothing, and its size, if known."""


def shown(item: Record | Refusal) -> str:
    """The beginning of an item, for `rejected/`: at most 4 kB."""
    raw = item.raw
    if isinstance(item, Record) and not raw:
        raw = json.dumps(item.value, ensure_ascii=False, default=repr).encode("utf-8", errors="backslashreplace")
    text = raw[:_SHOWN_BYTES].decode("utf-8", errors="backslashreplace")
    return text if len(raw) <= _SHOWN_BYTES else f"{text}… ({len(raw)} bytes)"
