"""An evaluation on the terminal: what is missing, the tasks, and the model's rows of the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nemotron4_eval.suites.results import CellResult, Missing, Row, TaskResult


def print_missing(missing: Sequence[Missing], console: Console) -> None:
    """What tasks need and did not find: tasks that lack the same thing share a line."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for entry in missing:
        grouped.setdefault((entry["kind"], entry["message"], entry["command"]), []).append(entry["task"])
    table = Table(title=f"missing for {len({entry['task'] for entry in missing})} tasks", title_justify="left")
    for name in ("task", "needs", "what is missing", "what brings it"):
        table.add_column(name, overflow="fold")
    for (kind, message, command), tasks in grouped.items():
        table.add_row(_some(tasks), kind, message, command)
    console.print(table)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


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
                table.add_row("", metric, _figure(value), "", "", "", "")
    console.print(table)


def print_tables(tables: Mapping[str, Sequence[Row]], console: Console) -> None:
    """The model's rows; shares in percent."""
    for number, rows in tables.items():
        columns = list(rows[0]["cells"])
        table = Table(title=f"Table {number}", title_justify="left")
        for name in ("", *columns, "AVG", "coverage"):
            table.add_column(name, justify="right")
        for row in rows:
            cells = [_percent(row["cells"].get(column)) for column in columns]
            table.add_row(row["mode"], *cells, _percent(row["average"]), row["coverage"])
        console.print(table)


def _percent(cell: CellResult | None) -> str:
    if cell is None or cell["value"] is None:
        return "-"
    stderr = f" ± {cell['stderr'] * 100:.1f}" if cell["stderr"] is not None else ""
    return f"{cell['value'] * 100:.1f}{stderr}"


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"
