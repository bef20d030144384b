"""report.html of an evaluation: what ran and what is missing, the seven areas, the tables, the settings.

Invariant: it is a function of the evaluation and of which pages of records exist; it reads nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nemotron4_eval.report.chart import area_bars, chart
from nemotron4_eval.report.shell import count, definitions, escape, scroll
from nemotron4_eval.report.table_html import all_tasks, table_section
from nemotron4_eval.report.tables import INTERVAL, NOT_ASKED, ShownTable, model_name
from nemotron4_eval.suites.missing import grouped
from nemotron4_eval.suites.paper import AVERAGE
from nemotron4_eval.suites.results import TaskResult

EXPORTS = {
    "tables.md": "Markdown",
    "tables.csv": "CSV",
    "tables.json": "JSON",
    "every_eval_ever.json": "every_eval_ever",
}

WAYS = {"context": "a model with a longer context"}
"""What helps where no command does, by kind."""


def sections(evaluation: Mapping[str, Any], tables: Sequence[ShownTable], records: Mapping[str, str]) -> Iterator[str]:
    """The body of the page. `records`: by task, its page of records, relative to this one."""
    yield from _head(evaluation, tables)
    yield from _missing(evaluation)
    bars = area_bars(tables)
    if bars:
        yield "<h2 id=areas>The seven areas</h2>"
        yield (
            "<p class=lead>Benchmark by benchmark, in percent (FLORES in points of spBLEU). The numbers at the right"
            " are the model's, ± one standard error.</p>"
        )
        yield f"<div class=card>{chart(bars, model_name(evaluation))}</div>"
    if tables:
        yield "<h2 id=tables>The paper's tables</h2>"
        yield (
            "<p class=lead>Printed rows as in the paper; the model's row is tinted, with its standard error. Bold: the"
            f" best of a column, where it is ahead of every other by more than {INTERVAL} standard errors.</p>"
        )
        for table in tables:
            yield table_section(table, records)
    yield from all_tasks(evaluation["tasks"], records)
    yield from _settings(evaluation)


def _head(evaluation: Mapping[str, Any], tables: Sequence[ShownTable]) -> Iterator[str]:
    facts = (
        ("suite", evaluation.get("suite")),
        ("checkpoint", evaluation.get("checkpoint")),
        ("trained on", count(evaluation.get("trained_tokens"), "tokens")),
        ("parameters", count(evaluation.get("parameters"), "")),
        ("took", _duration(evaluation.get("seconds"))),
    )
    lead = " · ".join(f"{name} {escape(value)}" for name, value in facts if value)
    yield f"<header><p class=kind>Evaluation</p><h1>{escape(model_name(evaluation))}</h1><p class=lead>{lead}<br>"
    yield f"<code>{escape(evaluation.get('model', ''))}</code></p>"
    yield f"<div class=facts>{''.join(_cards(evaluation, tables))}</div>"
    if (limit := evaluation["settings"].get("limit")) is not None:
        yield (
            f"<p class=warning role=note><b>A quick look:</b> at most {escape(limit)} items of each task were run."
            " These are not the benchmarks' scores.</p>"
        )
    links = [("areas", "areas"), *((f"table_{t.published.number}", f"Table {t.published.number}") for t in tables)]
    links += [("tasks", "all tasks"), ("settings", "settings")]
    shown = "".join(f"<a href='#{anchor}'>{text}</a>" for anchor, text in links)
    files = "".join(f"<a href='{file}'>{text}</a>" for file, text in EXPORTS.items())
    yield f"<nav aria-label='On this page'>{shown}</nav>"
    yield f"<nav aria-label='The same in other formats'><span>also as</span>{files}</nav></header>"


def _cards(evaluation: Mapping[str, Any], tables: Sequence[ShownTable]) -> Iterator[str]:
    tasks: Mapping[str, TaskResult] = evaluation["tasks"]
    own = [
        cell
        for table in tables
        for row in table.rows
        if row.own
        for name, cell in row.cells.items()
        if name != AVERAGE and cell.missing != NOT_ASKED
    ]
    settings, missing = evaluation["settings"], evaluation["missing"]
    yield _card(f"{sum(cell.value is not None for cell in own)} of {len(own)}", "of the tables' cells measured")
    yield _card(f"{sum(task['items'] for task in tasks.values()):,}", f"items in {count(len(tasks), 'tasks')}")
    without = len({each["task"] for each in missing})
    yield _card(str(without) if without else "none", "tasks did not run: listed below" if without else "missing")
    if failed := sum(task["failed_items"] for task in tasks.values()):
        yield _card(f"{failed:,}", "items whose request failed, scored as wrong")
    if cut := sum(task["cut_items"] for task in tasks.values()):
        yield _card(f"{cut:,}", "prompts cut to the model's context")
    start = settings.get("document_start")
    yield _card(escape(start or "unknown"), "token before each document (document_start)")
    if sandbox := settings.get("sandbox"):
        yield _card(escape(_level(sandbox)), "level at which programs were held")


def _card(number: str, text: str) -> str:
    return f"<div class=card><b>{number}</b><span>{escape(text)}</span></div>"


def _level(sandbox: Any) -> str:
    return str(sandbox.get("level", "unknown") if isinstance(sandbox, Mapping) else sandbox)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _missing(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """What did not run: tasks that the same command brings, or that lack the same thing, are one row."""
    if not evaluation["missing"]:
        return
    yield "<h2 id=missing>What is missing</h2>"
    yield "<p class=lead>These tasks did not run, and no mean is taken over what is left of them.</p>"
    rows = []
    for group in grouped(evaluation["missing"]):
        links = ", ".join(f"<a href='#table_{number}'>{number}</a>" for number in group.tables)
        way = f"<code>{escape(group.command)}</code>" if group.command else WAYS.get(group.kind, "")
        named = " data-name='What brings it:'" if way else ""
        rows.append(
            f"<tr><td class=wrap>{escape(group.shown_tasks(4))}<td data-name=Table>{links}"
            f"<td class=wrap>{escape(group.message)}<td class=wrap{named}>{way}</tr>"
        )
    head = "<tr><th class=text>task<th>table<th class=text>what is missing<th class=text>what brings it</tr>"
    yield scroll(
        "What is missing", f"<table class='plain stack'><thead>{head}</thead>{''.join(rows)}</table>", card=True
    )


def _settings(evaluation: Mapping[str, Any]) -> Iterator[str]:
    settings = dict(evaluation["settings"])
    settings["limit"] = settings.get("limit") or "all items"
    settings["contamination"] = settings.get("contamination") or "unknown: no manifest of the training data was found"
    settings |= {key: evaluation[key] for key in ("run_id", "job_digest", "corpus_digest") if key in evaluation}
    yield "<h2 id=settings>Settings</h2>"
    yield f"<div class=card>{_value(settings)}</div>"


def _value(value: Any) -> str:
    """A value of the settings as HTML, however nested."""
    if isinstance(value, Mapping):
        return (
            definitions((str(name).replace("_", " "), _value(each)) for name, each in value.items())
            if value
            else "none"
        )
    if isinstance(value, list | tuple):
        return "<ul>" + "".join(f"<li>{_value(each)}</li>" for each in value) + "</ul>" if value else "none"
    if value is None:
        return "none"
    return escape(
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 99_999 else value
    )
