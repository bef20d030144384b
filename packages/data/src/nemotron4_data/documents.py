"""Documents on disk and how raw records become them: stage 1 of `nemotron4 prepare`.

In: JSONL records `{"text", "id"?, "source"?, "split"?, "language"?, "origin"?}`. Out: one file for each source and
split, `documents/<domain>/<category>.{train,heldout}.jsonl.zst`, text untouched, in the order of the input.

Invariant: every input line that is not blank ends in exactly one of `documents/` and `rejected/`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files as package_files
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from .prepare_job import SOURCE_PATTERN, CorpusConfig

SPLITS = ("train", "heldout")
_PACKAGE_SCHEME = "package://"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst")
_FRAME_BYTES = 1 << 20
_ZSTD_LEVEL = 6


@dataclass
class SplitCount:
    """Size of one source's split: documents and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0


@dataclass
class DocumentsReport:
    """What stage 1 found: sizes by source and split, and rejected records by reason."""

    sources: dict[str, dict[str, SplitCount]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        sources = {
            source: {split: asdict(count) for split, count in sorted(splits.items())}
            for source, splits in sorted(self.sources.items())
        }
        return {"sources": sources, "rejected": dict(sorted(self.rejected.items()))}


def find_files(config: CorpusConfig) -> list[Path]:
    """The raw files of `corpus.files`, sorted within each glob. ValueError for a pattern without a match."""
    found: dict[Path, None] = {}
    for pattern in config.files:
        if pattern.startswith(_PACKAGE_SCHEME):
            folder = Path(str(package_files("nemotron4_data"))) / pattern.removeprefix(_PACKAGE_SCHEME)
            matches = sorted(path for path in folder.glob("*") if path.name.endswith(_SUFFIXES))
        else:
            path = Path(pattern).expanduser()
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        if not matches:
            raise ValueError(f"corpus.files ({pattern}) matches no file: correct the path or the glob")
        for match in matches:
            if not match.name.endswith(_SUFFIXES):
                raise ValueError(f"corpus.files ({match}) must end in one of {', '.join(_SUFFIXES)}")
            found[match] = None
    return list(found)


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or compressed file, without their newline. OSError names a file that is damaged."""
    try:
        with _open(path) as file:
            for line in file:
                yield line.rstrip(b"\r\n")
    except (EOFError, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise OSError(f"{path}: cannot be read to its end ({error}): copy or compress it again") from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return BufferedReader(cast(Any, stream), buffer_size=1 << 20)
    return path.open("rb")


def document_path(directory: Path, source: str, split: str) -> Path:
    """Where the documents of a source's split lie below the corpus directory (or its staged `documents`)."""
    return directory / f"{source}.{split}.jsonl.zst"


def write_documents(
    files: list[Path], config: CorpusConfig, documents: Path, rejected: Path, advance: Callable[[int, int], None]
) -> DocumentsReport:
    """File every record of `files` below `documents` or in `rejected`; `advance(documents, bytes)` reports progress."""
    report = DocumentsReport()
    writers: dict[tuple[str, str], FrameWriter] = {}
    rejects = FrameWriter(rejected / "records.jsonl.zst")
    for path in files:
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            try:
                record = parse_record(line, config)
            except ValueError as error:
                report.rejected[str(error)] += 1
                shown = line.decode("utf-8", errors="backslashreplace")
                rejects.write({"file": path.name, "line": number, "reason": str(error), "record": shown})
                continue
            source, split = record.pop("source"), record.pop("split")
            if (source, split) not in writers:
                writers[source, split] = FrameWriter(document_path(documents, source, split))
            writers[source, split].write(record)
            count = report.sources.setdefault(source, {}).setdefault(split, SplitCount())
            num_bytes = len(record["text"].encode())
            count.documents += 1
            count.bytes += num_bytes
            advance(1, num_bytes)
    for writer in (*writers.values(), rejects):
        writer.close()
    return report


def parse_record(line: bytes, config: CorpusConfig) -> dict[str, str]:
    """One record with its id, source and split filled in. ValueError whose text is the reason for rejecting it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("invalid UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("broken JSON") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError("no text")
    if not text:
        raise ValueError("empty text")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # an escaped lone surrogate, as in "\ud800"
        raise ValueError("invalid UTF-8") from None
    if b"\0" in encoded:
        raise ValueError("NUL in text")
    source = record.get("source", config.source)
    if not isinstance(source, str) or not SOURCE_PATTERN.fullmatch(source):
        raise ValueError("source is not domain/category")
    record_id = _printable(record.get("id")) or hashlib.sha256(encoded).hexdigest()[:24]
    split = record.get("split") or ("heldout" if _unit_hash(record_id) < config.heldout_fraction else "train")
    if split not in SPLITS:
        raise ValueError("split is neither train nor heldout")
    kept = {key: value for key in ("language", "origin") if (value := _printable(record.get(key)))}
    return {"id": record_id, "text": text, **kept, "source": source, "split": split}


def _printable(value: object) -> str:
    """A value of a side field as text that UTF-8 can hold; empty when the field is absent."""
    return "" if value is None else str(value).encode("utf-8", errors="backslashreplace").decode()


def _unit_hash(record_id: str) -> float:
    return int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big") / 2**64


class FrameWriter:
    """Write JSON lines as zstandard frames of about 1 MiB: one open file needs no compressor of its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        path.touch()

    def write(self, record: dict[str, Any]) -> None:
        """Add one record as a line."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        self._lines.append(line)
        self._pending_bytes += len(line)
        if self._pending_bytes >= _FRAME_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()

    def _flush(self) -> None:
        if self._lines:
            # Opened anew each time: hundreds of sources must not exhaust the limit on open files.
            with self._path.open("ab") as file:
                file.write(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(self._lines)))
            self._lines, self._pending_bytes = [], 0
