"""evaluations.csv, the benchmarks during training: a row for each metric of each task, and what is shown of them.

A task is shown by its accuracy, divided by the options' length where the task has that, and by the bits per byte of its
right answers. Of a benchmark with many tasks, their plain mean is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from nemotron4_train.reporting.metrics import Rows

FILE = "evaluations.csv"
COLUMNS = ("step", "tokens", "benchmark", "task", "metric", "value", "stderr", "chance", "items")
ACCURACIES = ("acc_norm", "acc")
"""What stands for a task in plots and notes: the first of these that it has."""
GOLD_BITS = "gold_bits_per_byte"
_MOST_TASKS = 8
"""Of a benchmark that are shown one by one."""


@dataclass(kw_only=True)
class Curve:
    """What a task, or the mean of a benchmark's tasks, came to over training."""

    tokens: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    chance: float | None = None


def accuracy_curves(rows: Rows) -> dict[str, Curve]:
    """Accuracies, a fraction of one, by task or benchmark."""
    return _curves(_headlines(rows))


def gold_curves(rows: Rows) -> dict[str, Curve]:
    """Bits per byte of the right answers, by task or benchmark."""
    return _curves([row for row in rows if row["metric"] == GOLD_BITS])


def describe(rows: Rows) -> str:
    """One evaluation in a line."""
    accuracies, bits = accuracy_curves(rows), gold_curves(rows)
    parts = []
    for name in {**accuracies, **bits}:
        figures = [f"{accuracies[name].values[-1]:.3f}"] if name in accuracies else []
        figures += [f"{bits[name].values[-1]:.3f} bits per byte"] if name in bits else []
        parts.append(f"{name} {', '.join(figures)}")
    return "  ".join(parts)


def last_evaluation(rows: Rows) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The last evaluation as a table: its header and its rows, one for each task."""
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    shown: dict[str, list[str]] = {}
    for row in _headlines(last):
        shown[row["task"]] = [f"{float(row['value']):.3f}{_error(row)}", _figure(row["chance"], 2), row["metric"], ""]
    for row in last:
        if row["metric"] == GOLD_BITS:
            shown.setdefault(row["task"], ["", "", "", ""])[3] = f"{float(row['value']):.3f}{_error(row)}"
    items = {row["task"]: row["items"] for row in last}
    header = ("task", "accuracy", "chance", "metric", "bits per byte of the right answers", "items")
    return header, [(task, *figures, items[task]) for task, figures in shown.items()]


def _headlines(rows: Rows) -> list[Mapping[str, str]]:
    """For each task and step, the row of its accuracy, if it has one."""
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    for metric in reversed(ACCURACIES):
        found |= {(row["step"], row["task"]): row for row in rows if row["metric"] == metric}
    return list(found.values())


def _curves(rows: Rows) -> dict[str, Curve]:
    tasks: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        tasks[row["benchmark"]].add(row["task"])
    points: dict[str, dict[int, list[Mapping[str, str]]]] = {}
    for row in rows:
        name = row["task"] if len(tasks[row["benchmark"]]) <= _MOST_TASKS else f"{row['benchmark']}, mean"
        points.setdefault(name, {}).setdefault(int(row["tokens"]), []).append(row)
    curves = {}
    for name, by_tokens in points.items():
        chances = [float(row["chance"]) for each in by_tokens.values() for row in each if row["chance"]]
        curves[name] = Curve(
            tokens=list(by_tokens),
            values=[fmean(float(row["value"]) for row in each) for each in by_tokens.values()],
            chance=fmean(chances) if chances else None,
        )
    return curves


def _error(row: Mapping[str, Any]) -> str:
    return f" ± {_figure(row['stderr'], 3)}" if row["stderr"] else ""


def _figure(text: str, digits: int) -> str:
    return f"{float(text):.{digits}f}" if text else ""
