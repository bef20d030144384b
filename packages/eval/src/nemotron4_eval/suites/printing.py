"""An evaluation on the terminal: what is missing, the tasks, and the model's rows of the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nemotron4_eval.suites.missing import grouped
from nemotron4_eval.suites.results import CellResult, Missing, Row, TaskResult


def print_missing(missing: Sequence[Missing], console: Console) -> None:
    """What tasks need and did not find: what one command brings for several tasks is said once."""
    console.print(f"missing, for {len({entry['task'] for entry in missing})} tasks:")
    for group in grouped(missing):
        console.print(f"  {group.kind}: {group.shown_tasks(2)}\n    {group.message}", soft_wrap=True)
        if group.command:
            console.print(f"    {group.command}", soft_wrap=True)


def print_tasks(tasks: Mapping[str, TaskResult], console: Console) -> None:
    """One line a metric."""
    table = Table()
    for name in ("task", "metric", "value", "stderr", "chance", "items", "shots"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for name, task in tasks.items():
        stderr, chance = _figure(task["stderr"]), _figure(task.get("chance"))
        table.add_row(
            name, task["metric"], _figure(task["value"]), stderr, chance, str(task["items"]), str(task["shots"])
        )
        for metric, value in task["metrics"].items():
            if metric != task["metric"]:
                table.add_row("", metric, _figure(value), _figure(task["stderrs"].get(metric)), "", "", "")
    console.print(table)


def print_tables(tables: Mapping[str, Sequence[Row]], console: Console) -> None:
    """The model's rows of the paper's tables, one below the other, in percent."""
    for number, rows in tables.items():
        table = Table(title=f"Table {number}", title_justify="left")
        table.add_column("")
        for row in rows:
            table.add_column(row["mode"], justify="right")
        for column in dict.fromkeys(column for row in rows for column in row["cells"]):
            table.add_row(column, *(_percent(row["cells"].get(column)) for row in rows))
        if any(row["coverage"] for row in rows):
            table.add_row("AVG", *(_percent(row["average"]) for row in rows), style="bold")
            table.add_row("of", *(row["coverage"] for row in rows))
        console.print(table)


def _percent(cell: CellResult | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    stderr = f" ± {cell['stderr'] * 100:.1f}" if cell["stderr"] is not None else ""
    return f"{cell['value'] * 100:.1f}{stderr}"


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"
