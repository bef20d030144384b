"""All documents of one package, streamed from its archive into one file; a pure function of the archive and its rows.

Invariant: `<package>.json` is written after `<package>.jsonl.zst` is complete, and records the key of what it was made
from; a rerun keeps a result whose key is still the same.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nemotron4_common.staging import sync, value_sha256, write_file

from ..documents import FrameWriter
from .archives import Package, iterate_members
from .copyright import PROSE, is_copyright_file, read_licenses
from .documents import (
    MAX_BYTES,
    MIN_BYTES,
    clean_text,
    drop_repeated_lines,
    drop_untranslated_lines,
    is_source_code,
    split_text,
)
from .readers import READ_ERRORS, READERS, WHOLE_ARCHIVE, Reader, read_man
from .rows import Row
from .shares import Group
from .text import Text

# Raise it when the code changes what it writes: packages read by older code are then read again.
_CODE_VERSION = 2
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class Extraction:
    """A task: read `rows` (by name) of a package into `folder`."""

    package: Package
    rows: dict[str, Row]
    folder: Path
    mandoc: Path | None

    @property
    def documents(self) -> Path:
        """The file of documents; each line also contains the name of its row."""
        name = f"{self.package.registry}-{self.package.name.replace('/', '-')}"
        return self.folder / f"{name}.jsonl.zst"

    @property
    def key(self) -> str:
        """Digest of everything that the result depends on."""
        rows = {name: asdict(row) for name, row in self.rows.items()}
        renders = any(row.reader == "man" for row in self.rows.values())
        mandoc = self.mandoc.parents[2].name if self.mandoc and renders else ""  # mandoc-DIGEST/usr/bin/mandoc
        return value_sha256({"code": _CODE_VERSION, "package": self.package.sha256, "rows": rows, "mandoc": mandoc})


@dataclass
class Extracted:
    """What a package contained: sizes by group as (documents, bytes), its licences, and unreadable members."""

    key: str
    licenses: list[str] = field(default_factory=list)
    groups: dict[Group, tuple[int, int]] = field(default_factory=dict)
    unreadable: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for the marker."""
        return asdict(self) | {"groups": [[*group, *count] for group, count in sorted(self.groups.items())]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Extracted:
        """The inverse of `to_json`."""
        groups = {Group(source, row): (documents, size) for source, row, documents, size in value["groups"]}
        return cls(**value | {"groups": groups})


def extract(task: Extraction) -> Extracted:
    """Read a package, unless that is already done. OSError if its archive is damaged."""
    marker = task.documents.with_name(task.documents.name.replace(".jsonl.zst", ".json"))
    if marker.exists() and task.documents.exists():
        done = Extracted.from_json(json.loads(marker.read_bytes()))
        if done.key == task.key:
            return done
    marker.unlink(missing_ok=True)
    # Named after the process: an executor may run a task again while the first run is still writing.
    partial_file = task.documents.with_name(f"{task.documents.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    partial_file.unlink(missing_ok=True)
    writer = FrameWriter(partial_file)
    result = Extracted(task.key)
    license_text = ""
    for name, row in task.rows.items():
        reading = _Reading(task, row)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for document in reading.documents():
            writer.write({**document, "row": name})
            counts[document["source"]].update(documents=1, bytes=len(document["text"].encode()))
        result.groups |= {Group(source, name): (c["documents"], c["bytes"]) for source, c in counts.items()}
        result.unreadable += reading.unreadable
        license_text = license_text or reading.license_text
    writer.close()
    sync(partial_file)
    partial_file.replace(task.documents)
    result.licenses = read_licenses(license_text)
    write_file(marker, json.dumps(result.to_json()).encode())
    return result


class _Reading:
    """One pass over an archive for one row."""

    def __init__(self, task: Extraction, row: Row) -> None:
        self.row = row
        self.package = task.package
        self.mandoc = task.mandoc
        self.unreadable = 0
        self.license_text = ""

    def documents(self) -> Iterator[dict[str, str]]:
        row, origin = self.row, self.package.origin
        texts = self._texts()
        if row.reader in ("html", "mallard"):
            texts = drop_repeated_lines(texts)
        for text in texts:
            filed = row.file_under(text)
            if filed is None or (row.domain == "code" and not is_source_code(text.text)):
                continue
            source, language = filed
            translated = row.domain == "multilingual"
            cleaned = clean_text(drop_untranslated_lines(text.text) if translated else text.text)
            pieces = [cleaned] if row.domain == "code" else split_text(cleaned, MAX_BYTES)
            for number, piece in enumerate(pieces, start=1):
                if len(piece.encode()) < MIN_BYTES:
                    continue
                suffix = f"-{number:04d}" if len(pieces) > 1 else ""
                yield {
                    "id": f"{self.package.name}/{text.name}{suffix}",
                    "text": piece,
                    "source": source,
                    "language": language,
                    "origin": origin,
                    "path": text.name,
                }

    def _texts(self) -> Iterator[Text]:
        if self.row.reader == "man":
            if self.mandoc is None:
                return
            reader: Reader = partial(read_man, mandoc=self.mandoc)
        else:
            reader = READERS[self.row.reader]
        if self.row.reader in WHOLE_ARCHIVE:
            yield from reader(list(self._members()))
            return
        for member in self._members():
            yield from self._read_one(reader, member)

    def _read_one(self, reader: Reader, member: tuple[str, bytes]) -> Iterable[Text]:
        try:
            return list(reader([member]))
        except READ_ERRORS:
            self.unreadable += 1
            return []

    def _members(self) -> Iterator[tuple[str, bytes]]:
        for path, data in iterate_members(self.package, lambda p: is_copyright_file(p) or self.row.wants(p)):
            if is_copyright_file(path):
                self.license_text = self.license_text or data.decode("utf-8", "replace")
            else:
                yield path, data


def license_of(row: Row, extracted: Extracted) -> str:
    """The licence recorded with a row's documents: checked by hand, or else the label of the copyright file."""
    return row.license or (extracted.licenses[0] if extracted.licenses else PROSE)
