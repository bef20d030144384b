"""Row-wise steps: which run, in which order, and the counts of what they did.

Invariant: what a step does to a document depends only on that document and the configuration, and reports of disjoint
sets of documents merge to the report of their union, so that shards and workers do not affect the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from ..document_fields import Document
from .config import CurationConfig
from .words import domain_of, text_size

_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 240


class Step(Protocol):
    """A step that processes one document at a time."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def domains(self) -> Collection[str]:
        """Domains of the documents that it applies to."""
        ...

    def __call__(self, document: Document) -> str | None:
        """None keeps the document, whose text may have been changed in place; otherwise the reason to drop it."""
        ...


def early_steps(config: CurationConfig) -> list[Step]:
    """The steps before deduplication, so that copies are found in repaired text of known language."""
    from .language import Language
    from .repair import Repair

    return _chosen(
        (config.repair.domains, lambda: Repair(config.repair)),
        (config.language.domains, lambda: Language(config.language)),
    )


def late_steps(config: CurationConfig) -> list[Step]:
    """The steps after deduplication: heuristics, evaluation items before placeholders hide them, personal data."""
    from .c4 import C4
    from .code import Code
    from .data_everywhere import DataEverywhere
    from .decontamination import Decontamination
    from .gopher_quality import GopherQuality
    from .gopher_repetition import GopherRepetition
    from .pii import Pii

    return _chosen(
        (config.gopher_quality.domains, lambda: GopherQuality(config.gopher_quality)),
        (config.gopher_repetition.domains, lambda: GopherRepetition(config.gopher_repetition)),
        (config.c4.domains, lambda: C4(config.c4)),
        (config.data_everywhere.domains, lambda: DataEverywhere(config.data_everywhere)),
        (config.code.domains, lambda: Code(config.code)),
        (
            config.decontamination.domains if config.decontamination.benchmarks else [],
            lambda: Decontamination(config.decontamination),
        ),
        (config.pii.domains, lambda: Pii(config.pii)),
    )


def _chosen(*steps: tuple[Collection[str], Callable[[], Step]]) -> list[Step]:
    return [make() for domains, make in steps if domains]


@dataclass
class Size:
    """Documents and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0

    def add(self, other: Size) -> None:
        """Count the other's documents too."""
        self.documents += other.documents
        self.bytes += other.bytes


@dataclass
class StepReport:
    """What one step did, by source. Examples are the dropped documents with the smallest hashes of their ids."""

    seen: dict[str, Size] = field(default_factory=dict)
    changed: dict[str, Size] = field(default_factory=dict)
    """Sizes after the change."""
    dropped: dict[str, dict[str, Size]] = field(default_factory=dict)
    """By reason, then by source."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """By reason: id, source and the beginning of the text."""

    def add_example(self, reason: str, example: dict[str, str]) -> None:
        """Add the example if it is among the first few by hash."""
        known = self.examples.setdefault(reason, [])
        known.append(example)
        known.sort(key=_example_order)
        del known[_EXAMPLES:]

    def merge(self, other: StepReport) -> None:
        """Add the report of other documents."""
        for mine, theirs in ((self.seen, other.seen), (self.changed, other.changed)):
            _add_sizes(mine, theirs)
        for reason, sizes in other.dropped.items():
            _add_sizes(self.dropped.setdefault(reason, {}), sizes)
        for reason, examples in other.examples.items():
            for example in examples:
                self.add_example(reason, example)


@dataclass
class CurationReport:
    """The reports of all steps, in the order they ran."""

    steps: dict[str, StepReport] = field(default_factory=dict)

    def merge(self, other: CurationReport) -> None:
        """Add the report of other documents."""
        for name, report in other.steps.items():
            self.steps.setdefault(name, StepReport()).merge(report)

    def to_json(self) -> dict[str, Any]:
        """Plain values: a list of steps, everything else sorted by name."""
        return {"steps": [{"name": name, **_sorted(asdict(report))} for name, report in self.steps.items()]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CurationReport:
        """The report that `to_json` wrote."""
        return cls({step["name"]: _step_report(step) for step in value["steps"]})


def run_steps(
    documents: Iterable[Document],
    steps: Iterable[Step],
    report: CurationReport,
    keep_dropped: Callable[[Mapping[str, object]], object] = lambda record: None,
) -> Iterator[Document]:
    """The documents that every step keeps, changed in place; what happened is counted in `report`.

    `keep_dropped` gets each of the others, with its step and the reason.
    """
    steps = list(steps)
    for step in steps:  # steps that see no document are part of the report too
        report.steps.setdefault(step.name, StepReport())
    if not steps:
        yield from documents
        return
    for document in documents:
        for step in steps:
            reason = _judge(step, document, report.steps[step.name])
            if reason is not None:
                keep_dropped({"step": step.name, "reason": reason, **document})
                break
        else:
            yield document


def _judge(step: Step, document: Document, report: StepReport) -> str | None:
    """Apply the step to a document, which may change in place, and count the result."""
    if domain_of(document) not in step.domains:
        return None
    source, text = document["source"], document["text"]
    size = Size(1, text_size(text))
    report.seen.setdefault(source, Size()).add(size)
    before = dict(document)
    reason = step(document)
    if reason is not None:
        report.dropped.setdefault(reason, {}).setdefault(source, Size()).add(size)
        shown = " ".join(text[: 4 * _EXAMPLE_CHARACTERS].split())[:_EXAMPLE_CHARACTERS]
        report.add_example(reason, {"id": document["id"], "source": source, "text": shown})
    elif document != before:
        report.changed.setdefault(source, Size()).add(Size(1, text_size(document["text"])))
    return reason


def _example_order(example: dict[str, str]) -> tuple[bytes, str]:
    return hashlib.sha256(example["id"].encode()).digest(), example["id"]


def _add_sizes(mine: dict[str, Size], theirs: dict[str, Size]) -> None:
    for key, size in theirs.items():
        mine.setdefault(key, Size()).add(size)


def _step_report(value: dict[str, Any]) -> StepReport:
    return StepReport(
        seen=_sizes(value["seen"]),
        changed=_sizes(value["changed"]),
        dropped={reason: _sizes(sizes) for reason, sizes in value["dropped"].items()},
        examples=value["examples"],
    )


def _sizes(value: dict[str, dict[str, int]]) -> dict[str, Size]:
    return {source: Size(**size) for source, size in value.items()}


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
