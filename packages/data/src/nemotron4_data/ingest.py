"""Raw files to work shards: pass 1 of the stage `documents`.

A task is some files in order, small ones grouped up to about 8 MB. It writes parts of about 8 MB of text, in order,
each a directory with a work shard, the rejected records, and a report; the task's own directory marks that all are
there. Finished parts survive a kill; their input is then read again, but not processed again. The order of documents is
(task, part, line), which is that of the input.

Invariant: every record that a reader yields ends in exactly one of a work shard, the rejected records, and the counts
of an early step; the directories of a task and of a part are complete under their final names, and where a part ends
depends only on the input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from nemotron4_common.staging import task_directory

from .curation import CurationConfig, CurationReport, early_steps, run_steps
from .curation.words import text_size
from .document_fields import Document, RejectedRecord
from .documents import FrameWriter, to_document
from .failures import at
from .prepare_job import CorpusConfig
from .rejections import Rejections
from .sources import RawFile, Record, Refusal, read_raw
from .sources.records import shown

DROPPED_FILE = "dropped.jsonl.zst"
_SHARD_FILE, _REJECTED_FILE, _REPORT_FILE = "documents.jsonl.zst", "rejected.jsonl.zst", "report.json"
_TASK_BYTES = 8_000_000
_PART_BYTES = 8_000_000
_WORK_ZSTD_LEVEL = 1  # read once or twice, then removed
_Items = Iterator[tuple[RawFile, Record | Refusal, tuple[int, int]]]


@dataclass(frozen=True)
class IngestTask:
    """Some raw files, and the output directory."""

    files: list[RawFile]
    corpus: CorpusConfig
    curation: CurationConfig
    output: Path

    @property
    def num_bytes(self) -> int:
        """Total size of those of its files whose size is known."""
        return sum(file.size or 0 for file in self.files)


@dataclass
class PartReport:
    """What a part holds: documents with the bytes of their texts, and rejected records by reason."""

    documents: int = 0
    bytes: int = 0
    rejected: Rejections = field(default_factory=Rejections)
    curation: CurationReport = field(default_factory=CurationReport)
    place: tuple[int, int] = (0, 0)
    """Where the next item is: the number of its file in the task, and its own number in the file."""
    is_last: bool = False
    directory: Path = Path()
    """Directory of the part; not written."""

    @property
    def shard(self) -> Path:
        """Its work shard, which exists if there is a document."""
        return self.directory / _SHARD_FILE

    @property
    def rejects(self) -> Path:
        """Its rejected records, in a file that exists if there are any."""
        return self.directory / _REJECTED_FILE

    @property
    def dropped(self) -> Path:
        """What the early steps dropped, in a file that exists if `curation.keep_dropped` is set."""
        return self.directory / DROPPED_FILE

    def save(self, directory: Path) -> None:
        """Write it into the directory of its part."""
        names = ("documents", "bytes", "place", "is_last")
        content = {**{name: getattr(self, name) for name in names}, "rejected": asdict(self.rejected)}
        content["curation"] = self.curation.to_json()
        (directory / _REPORT_FILE).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> PartReport:
        """Read it back."""
        content = json.loads((directory / _REPORT_FILE).read_text(encoding="utf-8"))
        content["rejected"] = Rejections(**content["rejected"])
        content["curation"] = CurationReport.from_json(content["curation"])
        content["place"] = tuple(content["place"])
        return cls(**content, directory=directory)


def plan_ingest(files: list[RawFile], corpus: CorpusConfig, curation: CurationConfig, work: Path) -> list[IngestTask]:
    """The tasks over `files`, which depend only on their sizes and order."""
    groups: list[list[RawFile]] = []
    open_bytes = _TASK_BYTES
    for file in files:
        size = _TASK_BYTES if file.size is None else file.size
        if open_bytes + size > _TASK_BYTES:
            groups.append([])
            open_bytes = 0
        groups[-1].append(file)
        open_bytes += size
    return [IngestTask(group, corpus, curation, work / f"{number:06}") for number, group in enumerate(groups)]


def ingest(task: IngestTask) -> int:
    """Run a task, resuming at the part that a killed run did not finish; returns the number of documents it kept."""
    parts = _parts(task.output)
    parts.mkdir(exist_ok=True)
    reports = list(load_parts(task.output))
    items = _items(task, reports[-1].place if reports else (0, 0))
    names = " to ".join(dict.fromkeys(file.name for file in (task.files[0], task.files[-1])))
    while not reports or not reports[-1].is_last:
        with at(names), task_directory(parts / f"{len(reports):06}") as output:
            reports.append(_ingest_part(items, task, output))
    with task_directory(task.output):
        pass  # its existence means that all parts are there
    return sum(report.documents for report in reports)


def load_parts(output: Path) -> Iterator[PartReport]:
    """The finished parts of the task with this directory, in order."""
    number = 0
    while (part := _parts(output) / f"{number:06}").is_dir():
        yield PartReport.load(part)
        number += 1


def _parts(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _items(task: IngestTask, place: tuple[int, int]) -> _Items:
    """The items of a task's files from `place` on, each with its file and the place after it."""
    first_file, first_item = place
    for number, file in enumerate(task.files[first_file:], start=first_file):
        read = first_item if number == first_file else 0
        for index, item in enumerate(islice(read_raw(file, task.corpus), read, None), start=read + 1):
            yield file, item, (number, index)


def _ingest_part(items: _Items, task: IngestTask, output: Path) -> PartReport:
    report = PartReport(directory=output)
    documents = _documents(items, task.corpus, report)
    dropped = FrameWriter(report.dropped) if task.curation.keep_dropped else None
    keep = [] if dropped is None else [dropped.write]
    shard = None
    sizes = []
    for document in run_steps(documents, early_steps(task.curation), report.curation, *keep):
        shard = shard or FrameWriter(report.shard, _WORK_ZSTD_LEVEL)
        shard.write(document)
        sizes.append(text_size(document["text"]))
    report.documents, report.bytes = len(sizes), sum(sizes)
    for writer in (shard, dropped):
        if writer:
            writer.close()
    report.save(output)
    return report


def _documents(items: _Items, corpus: CorpusConfig, report: PartReport) -> Iterator[Document]:
    """The documents among the next items, up to the size of a part; the other items are rejected."""
    rejects = None
    num_bytes = 0
    for file, item, report.place in items:
        unread = None
        if isinstance(item, Refusal):
            reason, unread = item.reason, item.unread
        else:
            try:
                document = to_document(item.value, corpus)
            except ValueError as error:
                reason = str(error)
            else:
                num_bytes += text_size(document["text"])
                yield document
                if num_bytes >= _PART_BYTES:
                    break
                continue
        rejects = rejects or FrameWriter(report.rejects)
        record: RejectedRecord = {"file": file.name, "position": item.position, "reason": reason, "record": shown(item)}
        report.rejected.add(record, unread)
        rejects.write(record if unread is None else {**record, "bytes_not_read": unread[0], "bytes": unread[1]})
        num_bytes += len(item.raw)
        if num_bytes >= _PART_BYTES:
            break
    else:
        report.is_last = True
    if rejects:
        rejects.close()
