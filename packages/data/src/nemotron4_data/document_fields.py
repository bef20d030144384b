"""The fields of a document from ingest to tokens, and of what is dropped, rejected or reported on the way.

They are typed dictionaries: each pass reads and writes a document as a JSON line, its fields keep the order in which
they came, and an early step may add one. A class would have to record that order and be converted at every line.
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
    """A document in the finished files, whose names give source and split."""

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
    """A document in a work shard; curation steps judge it and change it in place."""

    source: str
    """domain/category."""
    split: str
    """train or heldout."""


class RejectedRecord(TypedDict):
    """A raw record that cannot be a document, as stored in `rejected/`."""

    file: str
    position: str
    reason: str
    record: str
    """How it begins."""
    bytes_not_read: NotRequired[int]
    """Only for a damaged file."""
    bytes: NotRequired[int]
    """The size of a damaged file."""


class InexactDocuments(TypedDict):
    """Documents that, for one cause, cannot be restored exactly from their tokens."""

    documents: int
    examples: list[dict[str, str]]
    """The first of them: `id`, `source`, and in `detail` what is lost or changed."""
