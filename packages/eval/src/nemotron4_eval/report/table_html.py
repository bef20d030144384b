"""Tables of an evaluation as HTML: the paper's with the model's rows, and how each number was measured.

Invariant: a cell of the model without a value says why, to the pointer, to a screen reader, and below its table.
"""

from collections.abc import Iterator, Mapping, Sequence

from nemotron4_eval.report.shell import absent, count, escape, scroll
from nemotron4_eval.report.tables import ShownCell, ShownRow, ShownTable
from nemotron4_eval.suites.paper import AVERAGE
from nemotron4_eval.suites.results import TaskResult

DIGEST_CHARACTERS = 12


def table_section(table: ShownTable, records: Mapping[str, str]) -> str:
    """One table with its notes and how its columns were measured."""
    published = table.published
    title = f"Table {published.number}. {published.title}"
    notes = _Notes(published.marks)
    body = "".join(_row(table, row, notes, first) for row, first in _with_firsts(table.rows))
    head = "".join(f"<th scope=col{_average_class(name)}>{escape(name)}" for name in table.columns)
    mode = "<th scope=col class=text>mode" if table.has_modes else ""
    body += _chance_row(table)
    grid = f"<table class=scores><thead><tr><th scope=col>model{mode}{head}</thead><tbody>{body}</tbody></table>"
    lines = [*notes.lines(), *map(escape, published.notes)]
    return (
        f"<section class='card table' id=table_{published.number}><div class=table-head><h3>{escape(title)}</h3>"
        f"<p>{escape(published.setting)}</p></div><p class=metric>{escape(published.metric)}</p>{scroll(title, grid)}"
        f"{_list(lines)}{_missing(table)}{_measured(table, records)}</section>"
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul class=notes>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def _missing(table: ShownTable) -> str:
    """Why cells of the model are missing: folded where the reasons are many."""
    why = [f"{escape(', '.join(names))}: {escape(reason)}" for reason, names in table.missing.items()]
    if len(why) <= 2:
        return _list([f"Missing {line}." for line in why])
    cells = count(sum(map(len, table.missing.values())), "cells")
    return f"<details><summary>{cells} missing, and why</summary>{_list(why)}</details>"


class _Notes:
    """Footnotes of a table in the order in which its cells ask for them."""

    def __init__(self, marks: str) -> None:
        self._marks, self._texts, self._marked = marks, dict[str, int](), False

    def sign(self, cell: ShownCell) -> str:
        """Signs after a number."""
        signs = ""
        if cell.marked:
            self._marked = True
            signs += "*"
        if cell.mismatch is not None:
            text = f"as printed; by the rule of its column it is {cell.mismatch:.2f}"
            signs += str(self._texts.setdefault(text, len(self._texts) + 1))
        return f"<sup>{signs}</sup>" if signs else ""

    def lines(self) -> list[str]:
        marked = [f"<sup>*</sup> {escape(self._marks)}"] if self._marked else []
        return [*marked, *(f"<sup>{number}</sup> {escape(text)}" for text, number in self._texts.items())]


def _with_firsts(rows: Sequence[ShownRow]) -> Iterator[tuple[ShownRow, bool]]:
    """Rows, and whether each begins a group of another mode."""
    for index, row in enumerate(rows):
        before = rows[index - 1] if index else row
        yield row, before.mode != row.mode and not (row.own and before.own)


def _row(table: ShownTable, row: ShownRow, notes: _Notes, first: bool) -> str:
    classes = " ".join(filter(None, ("own" * row.own, "later" * row.later, "first" * first)))
    mode = "<td class=text>" + escape(row.mode if not row.later else "") if table.has_modes else ""
    name = escape(row.model) + (f"<small>{escape(row.mode)}</small>" if row.later else "")
    name += "<span class=hidden> (the evaluated model)</span>" if row.own else ""
    cells = []
    for column in table.columns:
        cell = row.cells.get(column, ShownCell(value=None))
        names = " ".join(filter(None, ("best" * cell.best, "average" * (column == AVERAGE))))
        cells.append(f"<td class='{names}'>{_cell(cell, notes)}")
    return f"<tr class='{classes}'><th scope=row>{name}{mode}{''.join(cells)}</tr>"


def _cell(cell: ShownCell, notes: _Notes) -> str:
    coverage = f"<small>{escape(cell.coverage)}</small>" if cell.coverage else ""
    if cell.value is not None:
        error = f"<small>± {cell.stderr:.1f}</small>" if cell.stderr is not None else ""
        return f"{cell.value:.1f}{notes.sign(cell)}{error}{coverage}"
    if cell.missing:
        return f"{absent(cell.missing)}{coverage}"
    return "–"


def _chance_row(table: ShownTable) -> str:
    chance = table.published.chance
    if not chance:
        return ""
    mode = "<td>" if table.has_modes else ""
    cells = "".join(
        f"<td{_average_class(name)}>{f'{chance[name]:.0f}' if name in chance else ''}" for name in table.columns
    )
    return f"<tr class='chance-row first'><th scope=row>chance{mode}{cells}</tr>"


def _average_class(column: str) -> str:
    return " class=average" if column == AVERAGE else ""


def _measured(table: ShownTable, records: Mapping[str, str]) -> str:
    """How each column of the model's row was measured."""
    rows = [
        _task_row(task.name, task.result, records, (", ".join(task.columns), task.mode, task.metric))
        for task in table.tasks
        if task.result is not None
    ]
    if not rows:
        return ""
    head = ("column", "mode", "metric", *_TASK_HEAD)
    summary = "How the model's row was measured: metric, shots, version, data; and each item with its prompt"
    return f"<details><summary>{summary}</summary>{_plain(head, rows)}</details>"


_TASK_HEAD = (
    "task",
    "shots",
    "items",
    "value ± s.e.",
    "gold bits/byte",
    "failed",
    "cut",
    "version",
    "dataset",
    "digest",
)


def _task_row(name: str, task: TaskResult, records: Mapping[str, str], before: tuple[str, ...] = ()) -> str:
    figure = "–" if task["value"] is None else f"{task['value']:.4g}"
    figure += "" if task["stderr"] is None else f" ± {task['stderr']:.2g}"
    bits = task["metrics"].get("gold_bits_per_byte")
    link = f'<a href="{escape(records[name])}">{escape(name)}</a>' if name in records else escape(name)
    digest = task["dataset_digest"]
    numbers = (
        escape(" from ".join([str(task["shots"]), *filter(None, [task.get("shots_from")])])),
        f"{task['items']:,}",
        figure,
        "" if bits is None else f"{bits:.3f}",
        f"{task['failed_items']:,}",
        f"{task['cut_items']:,}",
    )
    shown = f'<code title="{escape(digest)}">{escape(digest[:DIGEST_CHARACTERS])}</code>'
    texts = (*map(escape, before), link), (escape(task["version"]), escape(task["dataset"]), shown)
    left, right = ("".join(f"<td class=text>{text}" for text in cells) for cells in texts)
    return f"<tr>{left}{''.join(f'<td>{number}' for number in numbers)}{right}</tr>"


def _plain(head: Sequence[str], rows: Sequence[str]) -> str:
    numbers = _TASK_HEAD[1:7]
    names = "".join(f"<th scope=col{'' if name in numbers else ' class=text'}>{escape(name)}" for name in head)
    return scroll("tasks", f"<table class=plain><thead><tr>{names}</thead>{''.join(rows)}</table>")


def all_tasks(tasks: Mapping[str, TaskResult], records: Mapping[str, str]) -> Iterator[str]:
    """Every task that ran, also those of no table."""
    yield "<h2 id=tasks>All tasks</h2>"
    yield (
        "<p class=lead>A task's name leads to its items: the exact prompt, the model's answer, the gold answer and the"
        " verdict. Values are as in eval.json; the headline metric is named there and in the tables.</p>"
    )
    rows = [_task_row(name, task, records, (task["metric"],)) for name, task in tasks.items()]
    table = _plain(("metric", *_TASK_HEAD), rows)
    yield f"<div class=card><details><summary>{count(len(rows), 'tasks')}</summary>{table}</details></div>"
