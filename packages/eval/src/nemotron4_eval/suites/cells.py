"""The model's rows of the paper's tables, made of what the tasks came to.

Invariant: a cell has a value only if all its tasks have, and a row's average only if all its cells have.
Source: arXiv 2402.16819, section 4; averages are plain means of a row's cells.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

from nemotron4_eval.suites.errors import clustered_stderr, dependent_stderr, independent_stderr, mean
from nemotron4_eval.suites.results import CellResult, Missing, Row
from nemotron4_eval.suites.suite import Benchmark, Cell

if TYPE_CHECKING:
    from nemotron4_eval.harness.run import TaskRun

AVERAGE = "AVG"
"""A cell of this column is the row's average, where that is not the mean of the others."""
LANGUAGE_TABLES = (6, 7, 8, 9, 10)
"""Tables whose columns are languages."""


def table_rows(
    benchmarks: Sequence[Benchmark], runs: Mapping[str, "TaskRun"], missing: Sequence[Missing]
) -> dict[str, list[Row]]:
    """By the table's number, as text: the model's rows, one for each mode, with the cells of these benchmarks."""
    reasons = {entry["task"]: entry["message"] for entry in reversed(missing)}
    found: dict[int, list[tuple[Benchmark, Cell]]] = {}
    for benchmark in benchmarks:
        for cell in benchmark.cells:
            found.setdefault(cell.table, []).append((benchmark, cell))
    tables: dict[str, list[Row]] = {}
    for table, cells in sorted(found.items()):
        modes = list(dict.fromkeys(cell.mode for _, cell in cells if cell.mode)) or [""]
        for mode in modes:
            own = [(benchmark, cell) for benchmark, cell in cells if cell.mode in ("", mode)]
            tables.setdefault(str(table), []).append(_row(table, mode, own, runs, reasons))
    return tables


def _row(
    table: int,
    mode: str,
    cells: Sequence[tuple[Benchmark, Cell]],
    runs: Mapping[str, "TaskRun"],
    reasons: Mapping[str, str],
) -> Row:
    results = {cell.column: _cell(cell, runs, reasons) for _, cell in cells}
    printed = results.pop(AVERAGE, None)
    averaged = [cell for _, cell in cells if cell.in_average and cell.column != AVERAGE]
    found = [cell for cell in averaged if results[cell.column]["value"] is not None]
    unit = "languages" if table in LANGUAGE_TABLES else "columns"
    coverage = f"{len(found)} of {len(averaged)} {unit}" if averaged else ""
    average = printed or _average([results[cell.column] for cell in averaged], coverage)
    if printed is None and average["value"] is not None and all(benchmark.shared_items for benchmark, _ in cells):
        scores = [_scores(runs[cell.tasks[0]], cell.metric) for cell in averaged]
        errors = [results[cell.column]["stderr"] for cell in averaged]
        average["stderr"] = clustered_stderr(scores) if all(scores) else dependent_stderr(errors)
    return {"mode": mode, "cells": results, "average": average, "coverage": coverage}


def _cell(cell: Cell, runs: Mapping[str, "TaskRun"], reasons: Mapping[str, str]) -> CellResult:
    """A cell's value; over several tasks the mean over tasks or over all their items."""
    absent = [name for name in cell.tasks if name not in runs or runs[name].metrics.get(cell.metric) is None]
    if absent:
        return _nothing(_why(cell, absent, runs, reasons))
    parts = [runs[name] for name in cell.tasks]
    items = sum(part.items for part in parts)
    weights = [part.items / items if cell.average == "items" else 1 / len(parts) for part in parts]
    values = [part.metrics[cell.metric] or 0.0 for part in parts]
    stderr = independent_stderr([part.stderrs.get(cell.metric) for part in parts], weights)
    return {"value": math.fsum(w * v for w, v in zip(weights, values, strict=True)), "stderr": stderr, "items": items}


def _why(cell: Cell, absent: Sequence[str], runs: Mapping[str, "TaskRun"], reasons: Mapping[str, str]) -> str:
    first = absent[0]
    reason = reasons.get(first, f"has no {cell.metric}" if first in runs else "was not run")
    return reason if len(cell.tasks) == 1 else f"{len(absent)} of {len(cell.tasks)} tasks: {first} {reason}"


def _average(cells: Sequence[CellResult], coverage: str) -> CellResult:
    values = [cell["value"] for cell in cells]
    known = [value for value in values if value is not None]
    if not cells or len(known) < len(cells):
        return _nothing(coverage or "the table has no average")
    return {
        "value": mean(known),
        "stderr": independent_stderr([cell["stderr"] for cell in cells]),
        "items": sum(cell["items"] for cell in cells),
    }


def _scores(run: "TaskRun", metric: str) -> dict[Hashable, float]:
    """Scores of items by their number, which is that of the question in all languages; empty if items have none."""
    name, _, filter_name = metric.partition(",")
    found = [sample for sample in run.samples if sample.get("filter", "none") == (filter_name or "none")]
    return {sample["doc_id"]: float(sample[name]) for sample in found if isinstance(sample[name], Real)}


def _nothing(reason: str) -> CellResult:
    return {"value": None, "stderr": None, "items": 0, "missing": reason}
