"""What the stage `documents` rejected: counts by reason, the bytes of damaged files that were not read, and, if no
document is left, why, in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .document_fields import RejectedRecord
from .documents import BAD_SOURCE, BAD_SPLIT, NO_TEXT, TOO_LONG
from .prepare_job import CorpusConfig

_SHOWN_CHARACTERS = 80


@dataclass
class Rejections:
    """Rejected records by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    unread: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For damaged files by reason: bytes that were not read, and their size."""
    first: dict[str, str] = field(default_factory=dict)
    """The first record of each reason: its place and its beginning."""

    def add(self, record: RejectedRecord, unread: tuple[int, int] | None) -> None:
        """Count a record of `rejected/`."""
        reason = record["reason"]
        if reason not in self.counts:
            begins = " ".join(record["record"].split())[:_SHOWN_CHARACTERS]
            place = f"{record['file']} {record['position']}".rstrip()
            self.first[reason] = f"{place}: {begins}"
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if unread:
            self._add_unread(reason, unread)

    def merge(self, other: Rejections) -> None:
        """Add the rejections of later files."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.first.setdefault(reason, other.first[reason])
        for reason, unread in other.unread.items():
            self._add_unread(reason, unread)

    def _add_unread(self, reason: str, unread: tuple[int, int]) -> None:
        missing, size = self.unread.get(reason, (0, 0))
        self.unread[reason] = missing + unread[0], size + unread[1]

    def __str__(self) -> str:
        return ", ".join(
            f"{count} {reason}" + (f" ({in_words(self.unread[reason])})" if reason in self.unread else "")
            for reason, count in Counter(self.counts).most_common()
        )


def in_words(unread: tuple[int, int]) -> str:
    """How much of the damaged files was not read."""
    missing, size = unread
    return f"{missing:,} of {size:,} bytes, {missing / max(1, size):.0%}, not read"


def why_nothing_is_left(
    num_files: int, rejected: Rejections, dropped: Counter[str], num_held_out: int, corpus: CorpusConfig
) -> str:
    """Why no document for training is left, and the way out for the most common reason.

    `dropped` counts what curation dropped, by step.
    """
    causes = Counter(rejected.counts) + dropped + Counter({"held out": num_held_out})
    if not causes:
        return f"corpus.files: {num_files} file(s) hold no document; give files with text"
    reason, count = causes.most_common(1)[0]
    ways_out = {
        NO_TEXT: f"set corpus.columns.text ({corpus.columns.text}) to the field that holds the text",
        BAD_SOURCE: f"set corpus.columns.source=null to file all under {corpus.source}, or to a field that holds it",
        BAD_SPLIT: "set corpus.columns.split=null to choose by corpus.heldout_fraction, or to a field that holds it",
        TOO_LONG: f"raise corpus.max_document_bytes ({corpus.max_document_bytes})",
        "decompression bomb": f"raise corpus.max_expansion ({corpus.max_expansion}) if you trust the files",
        "held out": f"lower corpus.heldout_fraction ({corpus.heldout_fraction}) or correct corpus.columns.split",
        **{step: f"loosen or switch off curation.{step.removeprefix('lm_')}" for step in dropped},
    }
    place = f" (first: {rejected.first[reason]})" if reason in rejected.first else ""
    return (
        f"corpus.files: {num_files} file(s) hold no document for training; {count} of {causes.total()} record(s): "
        f"{reason}{place}; {ways_out.get(reason, 'correct the files')}"
    )
