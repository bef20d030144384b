"""The fields of a document on its way from ingest to tokens, and of what is dropped, rejected or reported on the way.

They are dictionaries, typed: a document is one JSON line after another, whose fields stay in the order in which they
came, and an early step may add one. A class would have to remember that order, and be made and unmade at every line.
"""

from __future__ import annotations

from typing import Final, Literal, NotRequired, TypedDict

SIDE_FIELDS: Final[tuple[Literal["language", "origin", "license", "date", "path"], ...]] = (
    "language",
    "origin",
    "license",
    "date",
    "path",
)


class FiledDocument(TypedDict):
    """A document in the finished files, of which the name says source and split."""

    id: str
    text: str
    language: NotRequired[str]
    """Code of the language, natural or programming."""
    origin: NotRequired[str]
    license: NotRequired[str]
    date: NotRequired[str]
    """When it was written."""
    path: NotRequired[str]
    bits_per_byte: NotRequired[float]
    """Its score under the language model of `curation.quality`."""


class Document(FiledDocument):
    """A document in a work shard, and what curation steps judge and change in place."""

    source: str
    """domain/category."""
    split: str
    """train or heldout."""


class RejectedRecord(TypedDict):
    """A raw record that cannot be a document, as `rejected/` has it."""

    file: str
    position: str
    reason: str
    record: str
    """How it begins."""
    bytes_not_read: NotRequired[int]
    """Of a damaged file."""
    bytes: NotRequired[int]
    """The size of a damaged file."""


class InexactDocuments(TypedDict):
    """Documents that for one cause do not come back from their tokens exactly."""

    documents: int
    examples: list[dict[str, str]]
    """The first of them: `id`, `source`, and in `detail` what becomes of what."""
