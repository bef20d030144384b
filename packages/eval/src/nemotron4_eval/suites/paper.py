"""The paper's Tables 3 to 11 as printed: paper.yaml, checked.

Invariant: cells stay as printed, also where they contradict each other; `PublishedTable.mismatch` says where.
Source: arXiv 2402.16819v2, section 4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).parent.parent / "paper.yaml"
AVERAGE = "AVG"
REFERENCE = "Nemotron-4 15B"
"""The paper's own model."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A printed row, in percent or points."""

    model: str
    mode: str
    """As `suite.Cell.mode`; empty if the table has one row for a model."""
    cells: Mapping[str, float | None]
    """By column, AVG included where it is printed; None is a printed dash."""
    marked: frozenset[str]
    """Columns whose cell has a source of its own: `PublishedTable.marks`."""
    later: bool = False
    """Whether it was printed in a later paper, with other numbers of shots."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of the paper."""

    number: int
    title: str
    setting: str
    """Shots, for people."""
    metric: str
    """For people."""
    columns: tuple[str, ...]
    """Without AVG."""
    rows: tuple[PublishedRow, ...]
    average: bool
    """Whether it has a column AVG."""
    weights: Mapping[str, float]
    """Of columns in AVG; empty for equal ones."""
    chance: Mapping[str, float]
    """Percent that guessing gives, by column."""
    marks: str
    """What a mark says of a cell."""
    notes: tuple[str, ...]

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns, with AVG last where there is one."""
        return (*self.columns, AVERAGE) if self.average else self.columns

    def mismatch(self, row: PublishedRow) -> float | None:
        """The average by the table's rule, if all cells are printed and the printed average is not that, rounded."""
        printed = row.cells.get(AVERAGE)
        values = {column: value for column in self.columns if (value := row.cells[column]) is not None}
        if printed is None or len(values) < len(self.columns):
            return None
        weights = self.weights or dict.fromkeys(self.columns, 1.0)
        mean = sum(weights[column] * value for column, value in values.items()) / sum(weights.values())
        return None if abs(mean - printed) <= 0.05 + 1e-9 else mean


@dataclass(frozen=True, kw_only=True)
class AreaPart:
    """A benchmark of one of the seven areas: a cell of a table."""

    area: str
    label: str
    table: int
    column: str
    mode: str | None = None
    """Row of the table; None is the first that has a value."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """All of paper.yaml."""

    tables: Mapping[int, PublishedTable] = field(default_factory=dict)
    areas: tuple[AreaPart, ...] = ()


@cache
def load_paper() -> Paper:
    """paper.yaml."""
    content = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    parts = [AreaPart(area=area, **part) for area, entries in content["areas"].items() for part in entries]
    return Paper(
        tables={number: _table(number, entry) for number, entry in content["tables"].items()}, areas=tuple(parts)
    )


def _table(number: int, entry: dict[str, Any]) -> PublishedTable:
    columns, average = tuple(entry["columns"]), "average" in entry
    shown = (*columns, AVERAGE) if average else columns
    return PublishedTable(
        number=number,
        title=entry["title"],
        setting=entry["setting"],
        metric=entry["metric"],
        columns=columns,
        rows=tuple(_rows(entry, shown)),
        average=average,
        weights=entry.get("weights", {}),
        chance=entry.get("chance", {}),
        marks=entry.get("marks", ""),
        notes=tuple(" ".join(note.split()) for note in entry.get("notes", ())),
    )


def _rows(entry: dict[str, Any], shown: tuple[str, ...]) -> Iterator[PublishedRow]:
    by_mode = entry["rows"] if isinstance(entry["rows"], dict) else {"": entry["rows"]}
    for mode, rows in by_mode.items():
        for model, *cells in rows:
            yield _row(model, mode, dict(zip(shown, cells, strict=True)))
    for later in entry.get("later", ()):
        model, *cells = later["row"]
        yield _row(model, later["mode"], dict(zip(shown, cells, strict=True)), later=True)


def _row(model: str, mode: str, cells: Mapping[str, Any], *, later: bool = False) -> PublishedRow:
    values = {
        column: None if cell is None else float(cell.rstrip("*") if isinstance(cell, str) else cell)
        for column, cell in cells.items()
    }
    marked = frozenset(column for column, cell in cells.items() if isinstance(cell, str))
    return PublishedRow(model=model, mode=mode, cells=values, marked=marked, later=later)
