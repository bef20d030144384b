"""The tables in other formats: Markdown, CSV, JSON, and the public schema every_eval_ever.

Source: evaleval/every_eval_ever, eval.schema.json, version 0.2.1.
"""

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nemotron4_eval.report.tables import ShownCell, ShownRow, ShownTable, model_name
from nemotron4_eval.suites.results import TaskResult

SCHEMA_VERSION = "0.2.1"
_CSV_HEADER = ("table", "mode", "model", "printed", "column", "value", "standard_error", "best", "note")


def markdown(tables: Sequence[ShownTable]) -> str:
    """The tables as Markdown."""
    return "\n".join(line for table in tables for line in _markdown(table))


def _markdown(table: ShownTable) -> Iterator[str]:
    published = table.published
    yield f"## Table {published.number}. {published.title}\n"
    yield f"{published.setting}; {published.metric}.\n"
    head = ["model", *(["mode"] if table.has_modes else []), *table.columns]
    yield _line(head)
    yield _line(["---"] + ["---:"] * (len(head) - 1))
    for row in table.rows:
        name = f"**{_cell_text(row.model)}** (evaluated)" if row.own else _cell_text(row.model)
        name += f" ({_cell_text(row.mode)})" * row.later
        mode = [_cell_text(row.mode) * (not row.later)] if table.has_modes else []
        yield _line([name, *mode, *(_markdown_cell(row.cells.get(column)) for column in table.columns)])
    yield ""
    notes = [*published.notes, *(f"Missing {', '.join(names)}: {why}." for why, names in table.missing.items())]
    if published.marks:
        notes.insert(0, f"\\* {published.marks}.")
    notes += [
        f"{row.model}'s printed average is {cell.value:.1f}; by its own rule it is {cell.mismatch:.2f}."
        for row in table.rows
        for cell in row.cells.values()
        if cell.mismatch is not None
    ]
    yield "\n".join(f"- {note}" for note in notes) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell_text(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _markdown_cell(cell: ShownCell | None) -> str:
    if cell is None or cell.value is None:
        return f"– ({cell.coverage})" if cell is not None and cell.coverage else "–"
    text = f"{cell.value:.1f}" + (f" ± {cell.stderr:.1f}" if cell.stderr is not None else "")
    return (f"**{text}**" if cell.best else text) + ("\\*" if cell.marked else "")


def comma_separated(tables: Sequence[ShownTable]) -> str:
    """One line a cell; values in percent or points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for table, row, column, cell in _cells(tables):
        error = "" if cell.stderr is None else f"{cell.stderr:.4f}"
        value = "" if cell.value is None else f"{cell.value:.4f}" if row.own else f"{cell.value:.1f}"
        kind = "" if row.own else "later" if row.later else "yes"
        writer.writerow(
            [
                table.published.number,
                row.mode,
                row.model,
                kind,
                column,
                value,
                error,
                "yes" * cell.best,
                _note(table, cell),
            ]
        )
    return out.getvalue()


def _cells(tables: Sequence[ShownTable]) -> Iterator[tuple[ShownTable, ShownRow, str, ShownCell]]:
    for table in tables:
        for row in table.rows:
            for column, cell in row.cells.items():
                yield table, row, column, cell


def _note(table: ShownTable, cell: ShownCell) -> str:
    mismatch = "" if cell.mismatch is None else f"by its own rule {cell.mismatch:.2f}"
    marked = table.published.marks if cell.marked else ""
    return "; ".join(filter(None, (cell.missing, cell.coverage, marked, mismatch)))


def as_json(tables: Sequence[ShownTable]) -> str:
    """The tables as a list of {table, title, rows: [{model, mode, printed, cells: {column: {value, ...}}}]}."""
    content = [
        {
            "table": table.published.number,
            "title": table.published.title,
            "setting": table.published.setting,
            "metric": table.published.metric,
            "rows": [
                {
                    "model": row.model,
                    "mode": row.mode,
                    "printed": not row.own,
                    "cells": {column: _json_cell(table, cell) for column, cell in row.cells.items()},
                }
                for row in table.rows
            ],
        }
        for table in tables
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _json_cell(table: ShownTable, cell: ShownCell) -> dict[str, Any]:
    more = {"stderr": cell.stderr, "best": cell.best or None, "note": _note(table, cell) or None}
    return {"value": cell.value} | {name: value for name, value in more.items() if value is not None}


def every_eval_ever(evaluation: Mapping[str, Any]) -> str:
    """The evaluation in the public schema: a result for each task's metric that has a value."""
    model, now = model_name(evaluation), str(int(time.time()))
    results = [
        result
        for name, task in evaluation["tasks"].items()
        for metric, value in task["metrics"].items()
        if value is not None and (result := _result(name, task, metric, value))
    ]
    identity = {
        key: str(evaluation[key])
        for key in ("run_id", "job_digest", "checkpoint", "trained_tokens")
        if evaluation.get(key)
    }
    content = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"nemotron4/{model}/{now}",
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "nemotron4 eval",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "first_party",
        },
        "eval_library": {
            "name": "lm_eval",
            "version": _version("lm-eval"),
            "additional_details": _texts(evaluation["settings"]),
        },
        "model_info": {
            "name": model,
            "id": str(evaluation.get("model") or model),
            "inference_engine": {"name": "nemotron4", "version": _version("nemotron4-infer")},
            "additional_details": identity,
        },
        "evaluation_results": results,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _result(name: str, task: TaskResult, metric: str, value: float) -> dict[str, Any]:
    lower, most = metric.endswith(("bits_per_byte", "perplexity", "ter")), _maximum(metric)
    config: dict[str, Any] = {"evaluation_description": metric, "lower_is_better": lower}
    if most is not None:
        config |= {"score_type": "continuous", "min_score": 0, "max_score": most}
    score: dict[str, Any] = {"score": value, "details": {"headline": str(metric == task["metric"]).lower()}}
    if (stderr := task["stderrs"].get(metric)) is not None:
        score["uncertainty"] = {"standard_error": {"value": stderr}, "num_samples": task["items"]}
    data = {"digest_sha256": task["dataset_digest"], "items": str(task["items"])}
    request = {"shots": str(task["shots"]), "task_version": task["version"], "cut_items": str(task["cut_items"])}
    return {
        "evaluation_name": name,
        "source_data": {"dataset_name": task["dataset"], "source_type": "other", "additional_details": data},
        "metric_config": config,
        "score_details": score,
        "generation_config": {"additional_details": request | {"failed_items": str(task["failed_items"])}},
    }


def _maximum(metric: str) -> int | None:
    """The most that a metric can be; None if it has no bound."""
    if "bits_per_byte" in metric or "perplexity" in metric:
        return None
    # The harness's own; ours, such as spbleu, are shares of one.
    return 100 if metric.partition(",")[0] in ("bleu", "chrf", "ter") else 1


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as the schema has them: texts."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for name, value in values.items()
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
