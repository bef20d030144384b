"""A sweep's table: sweep.csv after each job; at the end, the same on the terminal, and the plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nemotron4_common.staging import write_file
from nemotron4_train.reporting.timeline_plots import as_png
from nemotron4_train.sweeps.isoflop_report import write_study


class SweepRow(Protocol):
    """One job of a sweep, as the command line hands it over."""

    number: int
    overrides: list[str]
    run_dir: str
    state: str
    objective: float | None
    error: str | None
    seconds: float | None


def summarise(directory: Path, rows: Sequence[SweepRow], done: bool) -> None:
    """Rewrite sweep.csv; when the sweep is done, also draw the plots and print the table."""
    settings = [dict(override.split("=", 1) for override in row.overrides) for row in rows]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    lines = [["job", *keys, "objective", "state", "seconds", "run_dir", "error"]]
    for row, setting in zip(rows, settings, strict=True):
        objective = "" if row.objective is None else f"{row.objective:.6f}"
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        values = [setting.get(key, "") for key in keys]
        lines.append([str(row.number), *values, objective, row.state, seconds, row.run_dir, row.error or ""])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_file(directory / "sweep.csv", text.getvalue().encode())
    if done:
        varied = [key for key in keys if len({setting.get(key) for setting in settings}) > 1]
        _draw(directory, rows, settings, varied)
        _print(directory, lines, varied)
        write_study(directory, rows)


def _draw(directory: Path, rows: Sequence[SweepRow], settings: Sequence[dict[str, str]], keys: Sequence[str]) -> None:
    """Draw one plot per key that varied, and one of all of them, if at least two jobs have an objective."""
    from nemotron4_train.sweeps.plots import key_figure, parallel_figure

    measured = [
        ({key: setting.get(key, "") for key in keys}, row.objective)
        for row, setting in zip(rows, settings, strict=True)
        if row.objective is not None
    ]
    if len(measured) < 2:
        return
    drawn, objectives = zip(*measured, strict=True)
    for key in keys:
        write_file(directory / f"sweep-{key.replace('/', '-')}.png", as_png(key_figure(key, drawn, objectives)))
    if len(keys) > 1:
        write_file(directory / "sweep-parallel.png", as_png(parallel_figure(keys, drawn, objectives)))


def _print(directory: Path, lines: Sequence[Sequence[str]], varied: Sequence[str]) -> None:
    from rich.table import Table

    from nemotron4_common.terminal import plain_console

    header = lines[0]
    shown = [header.index(name) for name in ("job", *varied, "objective", "state", "seconds", "error")]
    table = Table(*[header[index] for index in shown], title=str(directory / "sweep.csv"))
    for line in lines[1:]:
        table.add_row(*[line[index] for index in shown])
    plain_console(stderr=True).print(table)
