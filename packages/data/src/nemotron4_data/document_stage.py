"""The stage `documents` of `nemotron4 prepare`: ingest, deduplicate, filter, file by source.

Each pass consists of tasks over files or work shards, and a finished task is a directory under its final name, so a
rerun after a kill does only the others. Tasks depend only on the input and the settings, so the number of workers, the
executor and kills do not affect the result.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .curation import CurationConfig, CurationReport
from .curation.decontamination import Decontamination
from .curation.dedup import deduplicate
from .curation.quality import quality_facts, score_shards, thresholds
from .documents import SplitCount
from .executor import Executor, run_missing
from .filtering import DedupReport, FilterReport, FilterTask, count_license, file_by_source, filter_shard
from .ingest import DROPPED_FILE, IngestTask, ingest, load_parts, plan_ingest
from .manifest import REJECTED_FILE
from .prepare_job import CorpusConfig
from .rejections import Rejections, why_nothing_is_left
from .sources import RawFile

DROPPED_NAME = "documents.jsonl.zst"
"""The file in `dropped/`."""
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int, int], None]]]
"""progress(name, total bytes) shows a bar while its context is open, moved by advance(documents, bytes)."""


@dataclass
class DocumentsReport:
    """What the stage found: sizes by source and split, rejected records by reason, and what curation did."""

    sources: dict[str, dict[str, SplitCount]] = field(default_factory=dict)
    rejected: Rejections = field(default_factory=Rejections)
    curation: CurationReport = field(default_factory=CurationReport)
    dedup: DedupReport = field(default_factory=DedupReport)
    licenses: dict[str, dict[str, int]] = field(default_factory=dict)
    quality: dict[str, Any] | None = None
    """Thresholds and buckets of the language model's filter, if it is on."""
    benchmarks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Texts of each benchmark that documents were compared with, and how many were too short to find."""

    def why_nothing_is_left(self, num_files: int, corpus: CorpusConfig) -> str:
        """The error line for a corpus without training documents."""
        dropped = {
            name: sum(size.documents for sizes in step.dropped.values() for size in sizes.values())
            for name, step in self.curation.steps.items()
        }
        held_out = sum(splits["heldout"].documents for splits in self.sources.values())
        return why_nothing_is_left(num_files, self.rejected, Counter(dropped), held_out, corpus)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        sources = {
            source: {split: asdict(count) for split, count in sorted(splits.items())}
            for source, splits in sorted(self.sources.items())
        }
        return {
            "sources": sources,
            "rejected": dict(sorted(self.rejected.counts.items())),
            **({"unread": dict(sorted(self.rejected.unread.items()))} if self.rejected.unread else {}),
            "curation": self.curation.to_json(),
            "dedup": self.dedup.to_json(),
            "licenses": dict(sorted(self.licenses.items())),
            "benchmarks": self.benchmarks,
            **({"quality": self.quality} if self.quality else {}),
        }


@dataclass(frozen=True)
class _Shard:
    path: Path
    documents: int
    bytes: int


def write_documents(
    files: list[RawFile],
    corpus: CorpusConfig,
    curation: CurationConfig,
    work: Path,
    documents: Path,
    rejected: Path,
    dropped: Path | None,
    executor: Executor,
    progress: Progress,
) -> DocumentsReport:
    """Turn `files` into documents by source below `documents` and records in `rejected`, with finished tasks in `work`.

    What curation drops goes to `dropped`, which is None unless `curation.keep_dropped` is set. Raises OSError when a
    source of files or the disk fails.
    """
    report = DocumentsReport()
    if dropped is not None:
        (dropped / DROPPED_NAME).touch()
        work = _folder(work, "keep_dropped")  # tasks done without it have not kept what they dropped
    ingested = plan_ingest(files, corpus, curation, _folder(work, "ingest"))
    shards = _ingest(ingested, rejected, dropped, executor, progress, report)
    with progress("dedup", None):
        drops = deduplicate([shard.path for shard in shards], curation.dedup, _folder(work, "dedup"), executor)
    scores, limits = _scores(shards, curation, _folder(work, "scores"), executor, progress, report)
    if curation.decontamination.domains and curation.decontamination.benchmarks:
        counts = Decontamination(curation.decontamination).counts
        report.benchmarks = {name: asdict(count) for name, count in counts.items()}
    filtered = _folder(work, "filtered")
    tasks = (
        FilterTask(shard.path, drops[number], curation, filtered / f"{number:06}", scores[number], limits)
        for number, shard in enumerate(shards)
    )
    with progress("filter", sum(shard.bytes for shard in shards)) as advance:
        done = run_missing(executor, filter_shard, tasks)
        for shard, _ in zip(shards, done, strict=True):
            advance(shard.documents, shard.bytes)
    with progress("file by source", sum(shard.bytes for shard in shards)) as advance:
        for number, shard in enumerate(shards):
            part = FilterReport.load(filtered / f"{number:06}")
            file_by_source(filtered / f"{number:06}", part, documents)
            if dropped is not None:
                _append(filtered / f"{number:06}" / DROPPED_FILE, dropped / DROPPED_NAME)
            _count(part, report)
            advance(shard.documents, shard.bytes)
    return report


def _scores(
    shards: list[_Shard],
    curation: CurationConfig,
    work: Path,
    executor: Executor,
    progress: Progress,
    report: DocumentsReport,
) -> tuple[Sequence[Path | None], dict[str, tuple[float, float]]]:
    """The scores of each shard under the language model and the limits of its buckets, if the filter is on."""
    if not curation.quality.domains:
        return [None] * len(shards), {}
    with progress("score", None):
        scores = score_shards([shard.path for shard in shards], curation.quality, work, executor)
    limits = thresholds(scores, curation.quality)
    report.quality = quality_facts(scores, limits, curation.quality)
    return scores, limits


def _ingest(
    tasks: list[IngestTask],
    rejected: Path,
    dropped: Path | None,
    executor: Executor,
    progress: Progress,
    report: DocumentsReport,
) -> list[_Shard]:
    shards = []
    sizes = [file.size for task in tasks for file in task.files]
    total = None if None in sizes else sum(task.num_bytes for task in tasks)
    records = rejected / Path(REJECTED_FILE).name
    records.touch()
    with progress("ingest", total) as advance:
        for task, _ in zip(tasks, run_missing(executor, ingest, tasks), strict=True):
            num_documents, part = 0, None
            for part in load_parts(task.output):
                report.rejected.merge(part.rejected)
                report.curation.merge(part.curation)
                if part.rejected.counts:
                    _append(part.rejects, records)
                if dropped is not None and part.dropped.exists():
                    _append(part.dropped, dropped / DROPPED_NAME)
                if part.documents:
                    shards.append(_Shard(part.shard, part.documents, part.bytes))
                    num_documents += part.documents
            if part is None or not part.is_last:
                raise OSError(f"{task.output}: some of its parts are missing; remove it and rerun `nemotron4 prepare`")
            advance(num_documents, task.num_bytes)
    return shards


def _append(frames: Path, target: Path) -> None:
    with frames.open("rb") as source, target.open("ab") as file:
        shutil.copyfileobj(source, file)


def _count(part: FilterReport, report: DocumentsReport) -> None:
    report.curation.merge(part.curation)
    report.dedup.merge(part.dedup)
    for name, size in part.licenses.items():
        count_license(report.licenses, name, size["documents"], size["bytes"])
    for group in part.groups:
        count = report.sources.setdefault(group.source, {}).setdefault(group.split, SplitCount())
        count.documents += group.documents
        count.bytes += group.bytes


def _folder(work: Path, name: str) -> Path:
    (work / name).mkdir(exist_ok=True)
    return work / name
