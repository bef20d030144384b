"""Row-wise steps: what they are, running them, and counting what they did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .config import CurationConfig


class Step(Protocol):
    """A judgement of one document."""

    name: str

    def __call__(self, document: dict[str, Any]) -> str | None:
        """None keeps the document; else the reason it is dropped."""
        ...


def early_steps(config: CurationConfig) -> list[Step]:
    """Steps before deduplication."""
    return []


def late_steps(config: CurationConfig) -> list[Step]:
    """Steps after deduplication."""
    return []


@dataclass
class CurationReport:
    """Documents by step, and by "kept" or the reason they were dropped."""

    steps: dict[str, dict[str, int]] = field(default_factory=dict)

    def merge(self, other: CurationReport) -> None:
        """Add the report of other documents."""
        for name, reasons in other.steps.items():
            for reason, count in reasons.items():
                self.add(name, reason, count)

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """Count documents of one step."""
        reasons = self.steps.setdefault(name, {})
        reasons[reason] = reasons.get(reason, 0) + count

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"steps": [{"name": name, **dict(sorted(reasons.items()))} for name, reasons in self.steps.items()]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CurationReport:
        """The report that `to_json` wrote."""
        return cls({step["name"]: {k: v for k, v in step.items() if k != "name"} for step in value["steps"]})


def run_steps(
    documents: Iterable[dict[str, Any]], steps: Iterable[Step], report: CurationReport
) -> Iterator[dict[str, Any]]:
    """The documents that every step keeps."""
    steps = list(steps)
    for document in documents:
        for step in steps:
            reason = step(document)
            report.add(step.name, reason or "kept")
            if reason is not None:
                break
        else:
            yield document
