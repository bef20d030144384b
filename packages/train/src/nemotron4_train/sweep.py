"""A sweep's table: sweep.csv, the same on the terminal, and the objective against each swept number."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nemotron4_data.staging import write_file


class SweepRow(Protocol):
    """One job of a sweep, as the command line hands it over."""

    overrides: list[str]
    run_dir: str
    objective: float | None
    error: str | None


def summarise(directory: Path, rows: Sequence[SweepRow]) -> None:
    """Rewrite sweep.csv and its plots, and print the table; called after each job."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = [dict(override.split("=", 1) for override in row.overrides) for row in rows]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", *keys, "objective", "state", "run_dir", "error"])
    for number, (row, setting) in enumerate(zip(rows, settings, strict=True)):
        values = [setting.get(key, "") for key in keys]
        objective = "" if row.objective is None else f"{row.objective:.6f}"
        state = "failed" if row.error else "complete"
        writer.writerow([number, *values, objective, state, row.run_dir, row.error or ""])
    write_file(directory / "sweep.csv", text.getvalue().encode())
    _plot(directory, rows, settings, keys)
    _print(directory, text.getvalue())


def _plot(directory: Path, rows: Sequence[SweepRow], settings: Sequence[dict[str, str]], keys: Sequence[str]) -> None:
    from nemotron4_train.plots import sweep_figure

    for key in keys:
        points = [
            (float(setting[key]), row.objective)
            for row, setting in zip(rows, settings, strict=True)
            if row.objective is not None and _is_number(setting.get(key, ""))
        ]
        if len({value for value, _ in points}) > 1:
            figure = sweep_figure(key, [value for value, _ in points], [objective for _, objective in points])
            figure.savefig(directory / f"sweep-{key}.png", dpi=130)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _print(directory: Path, table_csv: str) -> None:
    from rich.console import Console
    from rich.table import Table

    header, *lines = list(csv.reader(io.StringIO(table_csv)))
    shown = [index for index, name in enumerate(header) if name != "run_dir"]
    table = Table(*[header[index] for index in shown], title=str(directory / "sweep.csv"))
    for line in lines:
        table.add_row(*[line[index] for index in shown])
    Console(stderr=True).print(table)
