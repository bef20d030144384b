"""Work shards to documents by source: passes 3 and 4 of the stage `documents`.

A task applies the drops of deduplication and the late steps to one shard; its directory holds the documents as
zstandard frames grouped by source and split, and a report of the size of each group. Filing joins the groups of all
shards, in order, without unpacking them.

Invariant: the documents of a source's split are in the order of (shard, line).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from nemotron4_common.staging import task_directory

from .curation import CurationConfig, CurationReport, Step, late_steps, run_steps
from .curation.dedup import Drop
from .curation.quality import QualityFilter, ShardScores
from .curation.words import text_size
from .document_columns import read_chunks, read_columns, text_sizes
from .document_fields import Document
from .documents import FrameBuffer, document_path, json_line, read_lines
from .failures import at
from .ingest import DROPPED_FILE

_DOCUMENTS_FILE = "documents.zst"
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 240


@dataclass(frozen=True)
class FilterTask:
    """A work shard, its lines that deduplication drops, and the output directory."""

    shard: Path
    drops: dict[int, Drop]
    curation: CurationConfig
    output: Path
    scores: Path | None = None
    """Scores of its documents under the language model, if it judges any."""
    score_limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By language: the highest bits per byte of head and of middle."""


@dataclass
class Group:
    """Documents of one source's split in a shard: how many, the bytes of their texts, and their compressed frames."""

    source: str
    split: str
    documents: int = 0
    bytes: int = 0
    frame_bytes: int = 0


@dataclass
class DedupReport:
    """What deduplication dropped, by reason and source; examples are those with the smallest hash of their id."""

    dropped: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, document: Document, drop: Drop) -> None:
        """Count a dropped document."""
        source, text = document["source"], document["text"]
        self._count(drop.reason, source, {"documents": 1, "bytes": len(text.encode())})
        shown = " ".join(text[: 4 * _EXAMPLE_CHARACTERS].split())[:_EXAMPLE_CHARACTERS]
        example = {"id": document["id"], "kept_id": drop.kept_id, "source": source, "text": shown}
        self._show(drop.reason, [example])

    def merge(self, other: DedupReport) -> None:
        """Add the report of other documents."""
        for reason, sources in other.dropped.items():
            for source, size in sources.items():
                self._count(reason, source, size)
        for reason, examples in other.examples.items():
            self._show(reason, examples)

    def to_json(self) -> dict[str, Any]:
        """Plain values, sorted."""
        return {
            reason: {"dropped": dict(sorted(sources.items())), "examples": self.examples[reason]}
            for reason, sources in sorted(self.dropped.items())
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DedupReport:
        """The report that `to_json` wrote."""
        return cls(
            {reason: part["dropped"] for reason, part in value.items()},
            {reason: part["examples"] for reason, part in value.items()},
        )

    def _count(self, reason: str, source: str, size: dict[str, int]) -> None:
        known = self.dropped.setdefault(reason, {}).setdefault(source, {"documents": 0, "bytes": 0})
        for name, number in size.items():
            known[name] += number

    def _show(self, reason: str, examples: list[dict[str, str]]) -> None:
        known = [*self.examples.get(reason, []), *examples]
        known.sort(key=lambda example: (hashlib.sha256(example["id"].encode()).digest(), example["id"]))
        self.examples[reason] = known[:_EXAMPLES]


@dataclass
class FilterReport:
    """What a shard yielded: groups in the order of its file, and the counts of what was dropped."""

    groups: list[Group] = field(default_factory=list)
    dedup: DedupReport = field(default_factory=DedupReport)
    curation: CurationReport = field(default_factory=CurationReport)
    licenses: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kept documents and their bytes by licence, for those that state one."""

    def save(self, directory: Path) -> None:
        """Write it into the directory of its task."""
        content = {
            "groups": [vars(group) for group in self.groups],
            "dedup": self.dedup.to_json(),
            "curation": self.curation.to_json(),
            "licenses": self.licenses,
        }
        (directory / "report.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> FilterReport:
        """Read it back."""
        content = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        groups = [Group(**group) for group in content["groups"]]
        return cls(
            groups,
            DedupReport.from_json(content["dedup"]),
            CurationReport.from_json(content["curation"]),
            content["licenses"],
        )


def filter_shard(task: FilterTask) -> int:
    """Run a task; returns the number of documents it kept."""
    with at(str(task.shard)):
        return _filter(task)


def _filter(task: FilterTask) -> int:
    report = FilterReport()
    dropped, dropped_frames = FrameBuffer(), []

    def keep_dropped(record: Mapping[str, object]) -> None:
        if task.curation.keep_dropped:
            dropped_frames.append(dropped.add(json_line(record)))

    frames: dict[tuple[str, str], tuple[FrameBuffer, list[bytes], Group]] = {}
    steps = late_steps(task.curation)
    if task.scores is not None:
        steps.insert(0, QualityFilter(task.score_limits, task.curation.quality))
    kept = _judged(task, steps, report, keep_dropped) if steps else _as_they_are(task, report, keep_dropped)
    for key, line, num_bytes, license_name in kept:
        if key not in frames:
            frames[key] = FrameBuffer(), [], Group(*key)
        buffer, parts, group = frames[key]
        if frame := buffer.add(line):
            parts.append(frame)
        group.documents += 1
        group.bytes += num_bytes
        if license_name is not None:
            count_license(report.licenses, license_name, 1, num_bytes)
    with task_directory(task.output) as output:
        with (output / _DOCUMENTS_FILE).open("wb") as file:
            for _, (buffer, parts, group) in sorted(frames.items()):
                group.frame_bytes = file.write(b"".join([*parts, buffer.finish()]))
                report.groups.append(group)
        if task.curation.keep_dropped:
            (output / DROPPED_FILE).write_bytes(b"".join([*dropped_frames, dropped.finish()]))
        report.save(output)
    return sum(group.documents for group in report.groups)


def file_by_source(directory: Path, report: FilterReport, documents: Path) -> None:
    """Append the groups of a filtered shard to the files of their sources below `documents`."""
    with (directory / _DOCUMENTS_FILE).open("rb") as filtered:
        for group in report.groups:
            path = document_path(documents, group.source, group.split)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(filtered.read(group.frame_bytes))


def count_license(licenses: dict[str, dict[str, int]], name: str, documents: int, num_bytes: int) -> None:
    """Add documents of a licence to the counts."""
    known = licenses.setdefault(name, {"documents": 0, "bytes": 0})
    known["documents"] += documents
    known["bytes"] += num_bytes


_Keep = Callable[[Mapping[str, object]], object]
"""Gets each dropped document with the step and the reason."""
_Kept = Iterator[tuple[tuple[str, str], bytes, int, str | None]]
"""For each kept document: source and split, its line without them, the bytes of its text, and its licence."""


def _judged(task: FilterTask, steps: list[Step], report: FilterReport, keep_dropped: _Keep) -> _Kept:
    for document in run_steps(_undropped(task, report.dedup, keep_dropped), steps, report.curation, keep_dropped):
        filed = dict(document)
        del filed["source"], filed["split"]
        key = document["source"], document["split"]
        yield key, json_line(filed), text_size(document["text"]), document.get("license")


def _undropped(task: FilterTask, report: DedupReport, keep_dropped: _Keep) -> Iterator[Document]:
    scores = None if task.scores is None else ShardScores.load(task.scores)
    for number, line in enumerate(read_lines(task.shard)):
        document: Document = json.loads(line)
        if drop := task.drops.get(number):
            _drop(document, drop, report, keep_dropped)
        else:
            if scores is not None:
                scores.annotate(number, document)
            yield document


def _drop(document: Document, drop: Drop, report: DedupReport, keep_dropped: _Keep) -> None:
    report.add(document, drop)
    keep_dropped({"step": "dedup", "reason": drop.reason, "kept_id": drop.kept_id, **document})


def _as_they_are(task: FilterTask, report: FilterReport, keep_dropped: _Keep) -> _Kept:
    """As `_judged` if there is no step: lines keep their bytes, without being parsed and written again."""
    endings: dict[bytes, tuple[tuple[str, str], bytes]] = {}
    numbers = count()
    for lines in read_chunks(task.shard):
        texts, licenses = read_columns(lines, "text", "license")
        columns = lines.splitlines(), text_sizes(texts).tolist(), licenses.to_pylist()
        for line, num_bytes, license_name, number in zip(*columns, numbers, strict=False):
            if drop := task.drops.get(number):
                _drop(json.loads(line), drop, report.dedup, keep_dropped)
                continue
            # Source and split are written last, before what an early step added; inside text the quotes are escaped.
            start = line.rindex(b', "source": "')
            ending = line[start:]
            if ending not in endings:
                fields = json.loads(b"{" + ending[2:])
                key = fields.pop("source"), fields.pop("split")
                endings[ending] = key, b", " + json_line(fields)[1:] if fields else b"}\n"
            key, rest = endings[ending]
            yield key, line[:start] + rest, num_bytes, license_name
