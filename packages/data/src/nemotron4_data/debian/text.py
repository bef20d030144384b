"""The record that readers yield."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Members = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class Text:
    """A text as found in an archive; `language` is None if the row decides it."""

    name: str
    text: str
    language: str | None = None
