"""Documents: how a raw record becomes one, and how they are stored on disk.

A document is a JSON object `{"id", "text", "source", "split"}` with `language`, `origin`, `license`, `date` and `path`
if they are known. The finished files, one for each source and split, are
`documents/<domain>/<category>.{train,heldout}.jsonl.zst`; there the file name gives source and split.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from .document_fields import SIDE_FIELDS, Document
from .prepare_job import SOURCE_PATTERN, CorpusConfig
from .zstd import ZstdError, open_zstd

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("heldout", "validation", "valid", "val", "dev", "test", "eval"), "heldout"),
}
_MAX_KEY_CHARACTERS = 1000
NO_TEXT = "no text"
TOO_LONG = "longer than corpus.max_document_bytes"
BAD_SOURCE = "source is not domain/category of at most 100 characters each"
BAD_SPLIT = "split is neither train nor heldout"
OTHER_FIELDS = ("origin", "license", "path")  # of raw records: those that corpus.columns does not name
_LISTED_FIELDS: Final[tuple[Literal["id", "language", "license"], ...]] = ("id", "language", "license")
_FRAME_BYTES = 1 << 20
_ZSTD_LEVEL = 6


@dataclass
class SplitCount:
    """Size of one source's split: documents and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or compressed file, without their newline. OSError names a damaged file."""
    with open_lines(path) as file:
        for line in file:
            yield line.rstrip(b"\r\n")


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    """A plain or compressed file, unpacked. OSError names a file that turns out to be damaged while it is open."""
    try:
        with _open(path) as file:
            yield file
    except (EOFError, lzma.LZMAError, ZstdError, gzip.BadGzipFile) as error:
        raise OSError(f"{path}: cannot be read to its end ({error}); copy or compress it again") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        return open_zstd(path)
    return path.open("rb")


def document_path(directory: Path, source: str, split: str) -> Path:
    """Path of the documents of a source's split below the corpus directory (or its staged `documents`)."""
    return directory / f"{source}.{split}.jsonl.zst"


def to_document(record: object, config: CorpusConfig) -> Document:
    """A raw record as a document with id, source and split filled in. The ValueError states why it is rejected."""
    if not isinstance(record, dict):
        raise ValueError(NO_TEXT)
    if not config.columns.as_they_are:
        record = config.columns.to_document(record)
    text, encoded = _text(record.get("text"), config.max_document_bytes)
    source = record.get("source")
    source = config.source if source is None else source
    if source != config.source and not (isinstance(source, str) and SOURCE_PATTERN.fullmatch(source)):
        raise ValueError(BAD_SOURCE)
    record_id = _printable(record.get("id")) or hashlib.sha256(encoded).hexdigest()[:24]
    document: Document = {"id": record_id, "text": text}  # type: ignore[typeddict-item]  # source and split come last
    for key in SIDE_FIELDS:
        if key in record and (value := _printable(record[key])):
            document[key] = value
    if len(document) > 2 or len(record_id) > _MAX_KEY_CHARACTERS:
        for name in _LISTED_FIELDS:
            if len(document.get(name, "")) > _MAX_KEY_CHARACTERS:  # the report lists them
                raise ValueError(f"{name} is longer than {_MAX_KEY_CHARACTERS} characters")
    document["source"] = source
    document["split"] = _split(record.get("split"), record_id, config)
    return document


def _text(text: Any, max_bytes: int) -> tuple[str, bytes]:
    if not isinstance(text, str):
        raise ValueError(NO_TEXT)
    if not text:
        raise ValueError("empty text")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # an escaped lone surrogate, as in "\ud800"
        raise ValueError("invalid UTF-8") from None
    if len(encoded) > max_bytes:
        raise ValueError(TOO_LONG)
    if b"\0" in encoded:
        raise ValueError("NUL in text")
    return text, encoded


def _split(split: Any, record_id: str, config: CorpusConfig) -> str:
    if not split:
        return "heldout" if _unit_hash(record_id) < config.heldout_fraction else "train"
    found = _SPLIT_NAMES.get(split.lower()) if isinstance(split, str) else None
    if found is None:
        raise ValueError(BAD_SPLIT)
    return found


def _printable(value: object) -> str:
    """A value of a side field as text that UTF-8 can hold; empty when the field is absent."""
    return "" if value is None else str(value).encode("utf-8", errors="backslashreplace").decode()


def _unit_hash(record_id: str) -> float:
    return int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big") / 2**64


def json_line(record: Mapping[str, object]) -> bytes:
    """A record as a line with its newline: the output of `json.dumps`, faster for text values.

    Its keys must be names that need no escaping.
    """
    encode = json.encoder.encode_basestring
    fields = [
        f'"{key}": {encode(value) if type(value) is str else json.dumps(value, ensure_ascii=False)}'
        for key, value in record.items()
    ]
    return f"{{{', '.join(fields)}}}\n".encode()


class FrameBuffer:
    """Packs JSON lines into zstandard frames of about 1 MiB, which can be joined without being unpacked."""

    def __init__(self, level: int = _ZSTD_LEVEL) -> None:
        self._level = level
        self._lines: list[bytes] = []
        self._pending_bytes = 0

    def add(self, line: bytes) -> bytes:
        """Add one line, which ends in a newline; returns a frame when one is full, otherwise b""."""
        self._lines.append(line)
        self._pending_bytes += len(line)
        return self.finish() if self._pending_bytes >= _FRAME_BYTES else b""

    def finish(self) -> bytes:
        """The frame of the remaining lines; b"" if there are none."""
        if not self._lines:
            return b""
        from zstandard import ZstdCompressor

        frame = ZstdCompressor(level=self._level).compress(b"".join(self._lines))
        self._lines, self._pending_bytes = [], 0
        return frame


class FrameWriter:
    """Write records to a file of zstandard frames; an open writer needs no compressor of its own."""

    def __init__(self, path: Path, level: int = _ZSTD_LEVEL) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._buffer = FrameBuffer(level)
        path.touch()

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record as a line."""
        if frame := self._buffer.add(json_line(record)):
            self._append(frame)

    def close(self) -> None:
        """Write what is left."""
        self._append(self._buffer.finish())

    def _append(self, frame: bytes) -> None:
        if frame:
            # Reopened each time: hundreds of sources must not exhaust the limit on open files.
            with self._path.open("ab") as file:
                file.write(frame)
