"""What the runner and docs/performance.md know of a benchmark: how to run it, and which figures of its result to show.

Nothing here or in `areas` imports torch or a package of ours, so that `--help` and `--page` are quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Result = Mapping[str, Any]
"""The JSON document that a benchmark wrote."""
Draw = Callable[[Mapping[str, Result]], Any]
"""From the results of an area, by benchmark, to a matplotlib figure; benchmarks that have not run are absent."""


@dataclass(frozen=True)
class Benchmark:
    """A program of this folder, named as its result is."""

    name: str
    arguments: tuple[str, ...] = ()
    """Of the full run; {corpus}, {model} and the like are what `inputs` makes."""
    toy: tuple[str, ...] = ()
    """Of a run of a few seconds that shows that it works."""
    packages: tuple[str, ...] = ()
    """That it cannot run without, by the names that are imported, beside ours. A peer that need not be there is left
    out by the program itself, which says so."""
    minutes: float = 1.0
    """Of the full run on two cores, about."""
    program: str = ""
    """The file's name without .py, where it differs from `name`."""


@dataclass(frozen=True)
class Row:
    """A line of an area's table: what was measured, and how it is read from its result."""

    what: str
    benchmark: str
    value: Callable[[Result], str]
    peer: Callable[[Result], str] | None = None
    """The peer's figure, with its name: `12.3 (tokenizers)`."""
    goal: str = ""
    met: Callable[[Result], bool] | None = None
    """Whether the goal is; None without a goal."""
    missed: str = ""
    """Why a goal is not met, and the next step; shown only where it is not."""


@dataclass(frozen=True)
class Area:
    """A section of docs/performance.md."""

    title: str
    benchmarks: tuple[Benchmark, ...]
    rows: tuple[Row, ...]
    text: str = ""
    """What stands above the table, in Markdown: how it was measured, and what is not in it."""
    pictures: Mapping[str, Draw] = field(default_factory=dict)
    """Name of the picture -> function; it becomes docs/performance_NAME.png, below the table."""
