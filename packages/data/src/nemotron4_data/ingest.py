"""Raw files to work shards: pass 1 of the stage `documents`.

A task is some files in order, small ones grouped up to about 32 MB; its directory holds work shards of about 32 MB of
text, what was rejected, and a report. The order of documents is (task, shard, line), which is the order of the input.

Invariant: every record that a reader yields ends in exactly one of a work shard, the rejected records, and the counts
of an early step; a task's directory under its final name is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .curation import CurationConfig, CurationReport, early_steps, run_steps
from .documents import FrameWriter, to_document
from .prepare_job import CorpusConfig
from .rejections import Rejections
from .sources import RawFile, Refusal, read_raw
from .sources.records import shown
from .staging import task_directory

REJECTED_FILE = "rejected.jsonl.zst"
DROPPED_FILE = "dropped.jsonl.zst"
"""What the steps of a task dropped; there only where `curation.keep_dropped` asks for it."""
_TASK_BYTES = 32_000_000
_SHARD_BYTES = 32_000_000
_WORK_ZSTD_LEVEL = 1  # read once or twice, then removed


@dataclass(frozen=True)
class IngestTask:
    """Some raw files, and the directory of what becomes of them."""

    files: list[RawFile]
    corpus: CorpusConfig
    curation: CurationConfig
    output: Path

    @property
    def num_bytes(self) -> int:
        """Size of its files, as far as it is known."""
        return sum(file.size or 0 for file in self.files)


@dataclass
class IngestReport:
    """What a task gave: its shards with the documents and text bytes in each, and what it refused, by reason."""

    shards: list[tuple[int, int]] = field(default_factory=list)
    rejected: Rejections = field(default_factory=Rejections)
    curation: CurationReport = field(default_factory=CurationReport)

    def save(self, directory: Path) -> None:
        """Write it into the directory of its task."""
        content = {"shards": self.shards, "rejected": asdict(self.rejected), "curation": self.curation.to_json()}
        (directory / "report.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> IngestReport:
        """Read it back."""
        content = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        curation = CurationReport.from_json(content["curation"])
        rejected = Rejections(**content["rejected"])
        return cls([(count, size) for count, size in content["shards"]], rejected, curation)


def plan_ingest(files: list[RawFile], corpus: CorpusConfig, curation: CurationConfig, work: Path) -> list[IngestTask]:
    """The tasks over `files`, which depend on nothing but their sizes and order."""
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
    """Do a task; returns the documents it kept."""
    report = IngestReport()
    with task_directory(task.output) as output:
        rejects = FrameWriter(output / REJECTED_FILE)
        dropped = FrameWriter(output / DROPPED_FILE) if task.curation.keep_dropped else None
        keep = [] if dropped is None else [dropped.write]
        documents = run_steps(_documents(task, rejects, report), early_steps(task.curation), report.curation, *keep)
        _write_shards(documents, output, report)
        rejects.close()
        if dropped is not None:
            dropped.close()
        report.save(output)
    return sum(count for count, _ in report.shards)


def shard_path(directory: Path, number: int) -> Path:
    """Where a work shard of a task lies."""
    return directory / f"{number:06}.jsonl.zst"


def _documents(task: IngestTask, rejects: FrameWriter, report: IngestReport) -> Iterator[dict[str, Any]]:
    for file in task.files:
        for item in read_raw(file, task.corpus):
            unread = None
            if isinstance(item, Refusal):
                reason, unread = item.reason, item.unread
            else:
                try:
                    yield to_document(item.value, task.corpus)
                    continue
                except ValueError as error:
                    reason = str(error)
            record = {"file": file.name, "position": item.position, "reason": reason, "record": shown(item)}
            report.rejected.add(record, unread)
            rejects.write(record if unread is None else {**record, "bytes_not_read": unread[0], "bytes": unread[1]})


def _write_shards(documents: Iterable[dict[str, Any]], output: Path, report: IngestReport) -> None:
    writer = None
    count = size = 0
    for document in documents:
        writer = writer or FrameWriter(shard_path(output, len(report.shards)), _WORK_ZSTD_LEVEL)
        writer.write(document)
        count += 1
        size += len(document["text"].encode())
        if size >= _SHARD_BYTES:
            writer.close()
            report.shards.append((count, size))
            writer, count, size = None, 0, 0
    if writer:
        writer.close()
        report.shards.append((count, size))
