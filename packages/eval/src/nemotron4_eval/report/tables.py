"""The paper's tables with the model's rows among the printed ones, as figures: what the page and the exports show.

Invariants: a mean is shown only if all that it is over was measured; only the model's own cells have a standard error;
the best of a column is marked only where it is ahead of every other by more than the error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from nemotron4_eval.suites.paper import AVERAGE, PublishedRow, PublishedTable, load_paper
from nemotron4_eval.suites.results import CellResult, Row, TaskResult
from nemotron4_eval.suites.suite import TASKS_DIR, Benchmark, load_benchmark

INTERVAL = 1.96
"""Standard errors on each side of a value that hold 95 % of a normal distribution."""
NOT_MEASURED = "not measured"
NOT_ASKED = "not a part of this suite, or of this way to prompt"


@dataclass(frozen=True, kw_only=True)
class ShownCell:
    """A number of a row, in percent or points."""

    value: float | None
    stderr: float | None = None
    """Of the model's own cells."""
    missing: str = ""
    """Why one of the model's own cells has no value."""
    coverage: str = ""
    """Of a mean: 5 of 11 columns."""
    marked: bool = False
    """Whether the paper took it from elsewhere."""
    mismatch: float | None = None
    """What a printed average should be, if it is not."""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row: the model's own, or a printed one."""

    model: str
    mode: str
    own: bool
    cells: Mapping[str, ShownCell]
    later: bool = False


@dataclass(frozen=True, kw_only=True)
class MeasuredTask:
    """A task behind cells of a table."""

    name: str
    columns: tuple[str, ...]
    mode: str
    metric: str
    result: TaskResult | None
    """None if it did not run."""


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """A table of the paper and the model's rows in it."""

    published: PublishedTable
    columns: tuple[str, ...]
    """All columns in order: those printed, and further ones of the model's rows."""
    rows: tuple[ShownRow, ...]
    tasks: tuple[MeasuredTask, ...] = field(default=())

    @property
    def has_modes(self) -> bool:
        """Whether rows say how the model was prompted."""
        return any(row.mode for row in self.rows if not row.later)

    @property
    def missing(self) -> dict[str, list[str]]:
        """Why cells are missing: columns by reason, but AVG and what was not asked for."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            for column, cell in row.cells.items():
                if cell.missing and cell.missing != NOT_ASKED and column != AVERAGE:
                    name = f"{column} ({row.mode})" if row.mode else column
                    found.setdefault(cell.missing, []).append(name)
        return found


def model_name(evaluation: Mapping[str, Any]) -> str:
    """A short name of the evaluated model: the last part of its path that tells runs apart."""
    parts = [part for part in PurePath(str(evaluation.get("model", ""))).parts if part not in ("export", "latest", "/")]
    return parts[-1] if parts else "this model"


def all_benchmarks() -> list[Benchmark]:
    """The benchmarks that come with this package."""
    return [load_benchmark(path.parent.name) for path in sorted(TASKS_DIR.glob("*/benchmark.yaml"))]


def shown_tables(evaluation: Mapping[str, Any], benchmarks: Sequence[Benchmark] | None = None) -> list[ShownTable]:
    """The tables that the evaluation has rows of, or should have had."""
    benchmarks = all_benchmarks() if benchmarks is None else benchmarks
    wanted = {int(number) for number in evaluation["tables"]}
    wanted |= {number for each in evaluation["missing"] for number in each["tables"]}
    tables = load_paper().tables
    return [_shown(tables[number], evaluation, benchmarks) for number in sorted(wanted & set(tables))]


def _shown(published: PublishedTable, evaluation: Mapping[str, Any], benchmarks: Sequence[Benchmark]) -> ShownTable:
    given = evaluation["tables"].get(str(published.number), ())
    own = [_own_row(published, row, model_name(evaluation)) for row in given]
    further = tuple(
        column for row in own for column in row.cells if column not in published.all_columns
    )  # columns of ours that the paper does not have
    columns = (*published.all_columns, *dict.fromkeys(further))
    own = own or [_unmeasured(published, evaluation)]
    printed = [_printed_row(published, row) for row in published.rows]
    modes = list(dict.fromkeys(row.mode for row in printed if not row.later))
    ordered: list[ShownRow] = []
    for mode in modes:
        group = [row for row in printed if row.mode == mode and not row.later]
        # A table without modes compares all of the model's rows; one with modes those of the same mode.
        group += own if modes == [""] else [row for row in own if row.mode == mode]
        ordered += _with_best(group, columns)
    ordered += [row for row in own if modes != [""] and row.mode not in modes]
    ordered += [row for row in printed if row.later]
    return ShownTable(
        published=published,
        columns=columns,
        rows=tuple(ordered),
        tasks=tuple(_tasks(published.number, evaluation["tasks"], benchmarks)),
    )


def _own_row(table: PublishedTable, row: Row, model: str) -> ShownRow:
    cells = {column: _own_cell(row["cells"].get(column)) for column in table.columns}
    cells |= {column: _own_cell(cell) for column, cell in row["cells"].items() if column not in cells}
    if table.average:
        mean = _own_cell(row["average"])
        if mean.value is None or any(cells[column].value is None for column in table.columns):
            mean = ShownCell(value=None, missing="no mean over missing cells")
        cells[AVERAGE] = replace(mean, coverage=row["coverage"])
    return ShownRow(model=model, mode=row["mode"], own=True, cells=cells)


def _own_cell(cell: CellResult | None) -> ShownCell:
    if cell is None:
        return ShownCell(value=None, missing=NOT_ASKED)
    value, stderr = cell["value"], cell["stderr"]
    if value is None or not math.isfinite(value):
        return ShownCell(value=None, missing=cell.get("missing") or NOT_MEASURED)
    known = stderr is not None and math.isfinite(stderr)
    return ShownCell(value=100 * value, stderr=100 * stderr if known and stderr is not None else None)


def _unmeasured(table: PublishedTable, evaluation: Mapping[str, Any]) -> ShownRow:
    reasons = [each["message"] for each in evaluation["missing"] if table.number in each["tables"]]
    cell = ShownCell(value=None, missing="; ".join(dict.fromkeys(reasons)) or NOT_MEASURED)
    return ShownRow(model=model_name(evaluation), mode="", own=True, cells=dict.fromkeys(table.all_columns, cell))


def _printed_row(table: PublishedTable, row: PublishedRow) -> ShownRow:
    cells = {column: ShownCell(value=value, marked=column in row.marked) for column, value in row.cells.items()}
    if AVERAGE in cells:
        cells[AVERAGE] = replace(cells[AVERAGE], mismatch=table.mismatch(row))
    return ShownRow(model=row.model, mode=row.mode, own=False, later=row.later, cells=cells)


def _with_best(group: list[ShownRow], columns: Sequence[str]) -> list[ShownRow]:
    """The rows, with the best of each column marked if it is beyond the error of every other."""
    best = {column: _best(group, column) for column in columns}
    return [
        replace(row, cells={c: replace(cell, best=best.get(c) == index) for c, cell in row.cells.items()})
        for index, row in enumerate(group)
    ]


def _best(group: Sequence[ShownRow], column: str) -> int | None:
    found: list[tuple[float, float, int]] = []
    for index, row in enumerate(group):
        cell = row.cells.get(column)
        if cell is not None and cell.value is not None:
            # An estimate of 0, of a few items that are all right or all wrong, says nothing of the error.
            error = (cell.stderr or math.inf) if row.own else 0.0
            found.append((cell.value, error, index))
    if len(found) < 2:
        return None
    value, error, index = max(found)
    others = [each for each in found if each[2] != index]
    ahead = all(value - other > INTERVAL * math.hypot(error, other_error) for other, other_error, _ in others)
    return index if ahead else None


def _tasks(number: int, results: Mapping[str, TaskResult], benchmarks: Sequence[Benchmark]) -> Iterator[MeasuredTask]:
    columns: dict[tuple[str, str, str], list[str]] = {}
    for benchmark in benchmarks:
        for cell in benchmark.cells:
            if cell.table == number:
                for task in cell.tasks:
                    columns.setdefault((task, cell.mode, cell.metric), []).append(cell.column)
    for (task, mode, metric), names in columns.items():
        yield MeasuredTask(
            name=task, columns=tuple(dict.fromkeys(names)), mode=mode, metric=metric, result=results.get(task)
        )
