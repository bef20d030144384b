"""The model's rows of the paper's tables, made of what the tasks came to.

Invariant: a cell has a value only if all its tasks have, and a row's average only if all its cells have.
Source: arXiv 2402.16819, section 4; averages are plain means of a row's cells.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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
    stderr = _combined(weights, [part.stderrs.get(cell.metric) for part in parts])
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
    share = 1 / len(cells)
    return {
        "value": math.fsum(known) * share,
        "stderr": _combined([share] * len(cells), [cell["stderr"] for cell in cells]),
        "items": sum(cell["items"] for cell in cells),
    }


def _combined(weights: Sequence[float], stderrs: Sequence[float | None]) -> float | None:
    """The standard error of a weighted mean of independent parts; None if that of a part is unknown."""
    known = [stderr for stderr in stderrs if stderr is not None]
    if len(known) < len(stderrs):
        return None
    return math.sqrt(math.fsum((w * s) ** 2 for w, s in zip(weights, known, strict=True)))


def _nothing(reason: str) -> CellResult:
    return {"value": None, "stderr": None, "items": 0, "missing": reason}
