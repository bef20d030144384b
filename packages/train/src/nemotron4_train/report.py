"""A run's report: report.html (pictures and tables, one file) and report.json (the same figures for programs).

Built from what the run directory holds, so it can be written during a run, after it, and again after an evaluation.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron4_data.html_page import page, table
from nemotron4_data.staging import write_file
from nemotron4_train.job import TrainJob
from nemotron4_train.metrics import accepted, read_rows
from nemotron4_train.run_directory import read_record
from nemotron4_train.schedule import Timeline

DOMAINS = ("overall", "english", "multilingual", "code")


@dataclass(kw_only=True)
class ReportJob:
    """Which run to report on."""

    run: str
    """A run directory, such as runs/demo/latest."""


def write_report(run_directory: Path, job: TrainJob) -> Path:
    """Write report.json and report.html; returns the page's path."""
    from nemotron4_train.plots import as_data_uri, run_figure

    timeline = Timeline(job.schedule, job.trainer.max_steps)
    steps, validation = read_rows(run_directory / "metrics.csv"), read_rows(run_directory / "validation.csv")
    evaluation = _read_json(run_directory / "eval.json")
    figures = report_figures(job, timeline, steps, validation, evaluation)
    record = read_record(run_directory)
    figures["state"] = record.state if record else "unknown"
    write_file(run_directory / "report.json", (json.dumps(figures, indent=1) + "\n").encode())
    baselines = {
        name: figures[key]
        for name, key in (("gzip -9", "gzip_bits_per_byte"), ("xz -9e", "xz_bits_per_byte"))
        if figures.get(key) is not None
    }
    picture = as_data_uri(run_figure(job, timeline, steps, validation, baselines))
    page = run_directory / "report.html"
    write_file(page, _page(job, timeline, figures, evaluation, picture, run_directory).encode())
    return page


def report_figures(
    job: TrainJob,
    timeline: Timeline,
    steps: Sequence[dict[str, str]],
    validation: Sequence[dict[str, str]],
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """The report's figures; bits per byte come from eval.json, or before it from the last validation."""
    measured = evaluation.get("bits_per_byte") or {
        name: float(validation[-1][name]) for name in DOMAINS if validation and validation[-1].get(name)
    }
    figures: dict[str, Any] = {
        "run": job.run.name,
        "tokens": int(steps[-1]["tokens"]) if steps else 0,
        "steps": int(steps[-1]["step"]) if steps else 0,
        "num_steps": timeline.num_steps,
        "parameters": job.model.num_parameters,
        "loss": float(taken[-1]["loss"]) if (taken := accepted(steps)) else None,
        "bits_per_byte": {name: measured[name] for name in DOMAINS if name in measured},
        "bits_per_byte_from": "evaluation" if evaluation else "last validation (part of the held-out text)",
    }
    for compressor in ("gzip", "xz"):
        by_domain = evaluation.get(f"{compressor}_bits_per_byte", {})
        figures[f"{compressor}_bits_per_byte"] = by_domain.get("overall")
        figures[f"{compressor}_bits_per_byte_by_domain"] = {k: by_domain[k] for k in DOMAINS if k in by_domain}
    figures["tasks"] = evaluation.get("tasks", {})
    return figures


def _read_json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return loaded


def _page(
    job: TrainJob,
    timeline: Timeline,
    figures: dict[str, Any],
    evaluation: dict[str, Any],
    picture: str,
    run_directory: Path,
) -> str:
    lead = (
        f"{figures['parameters']:,} parameters, {figures['tokens']:,} tokens in {figures['steps']:,} of"
        f" {figures['num_steps']:,} steps; {figures['state']}"
    )
    sections = [
        f"<h1>{html.escape(job.run.name)}</h1><p class=lead>{html.escape(lead)}</p>",
        "<h2>Held-out bits per byte</h2>",
        _bits_table(figures),
        f"<p class=lead>Lower is better. Model: {html.escape(figures['bits_per_byte_from'])}; gzip -9 and xz -9e on the"
        " same bytes.</p>",
        "<h2>Over the timeline</h2>",
        f"<img alt='loss, bits per byte, learning rate, batch and blend over tokens' src='{picture}'>",
        "<h2>Timeline</h2>",
        table(("phase", "tokens", "steps", "global batch", "sequence", "blend"), timeline_rows(timeline)),
    ]
    if figures["tasks"]:
        sections += ["<h2>Tasks</h2>", _task_table(figures["tasks"])]
    sources = evaluation.get("bits_per_byte", {}).get("sources", {})
    if sources:
        rows = [(name, f"{value:.3f}") for name, value in sorted(sources.items())]
        sections.append(
            f"<details><summary>Bits per byte by source</summary>{table(('source', 'bits per byte'), rows)}</details>"
        )
    job_yaml = run_directory / "job.yaml"
    if job_yaml.is_file():
        text = html.escape(job_yaml.read_text(encoding="utf-8"))
        sections.append(f"<details><summary>job.yaml</summary><pre>{text}</pre></details>")
    return page(f"nemotron4: {job.run.name}", sections)


def timeline_rows(timeline: Timeline) -> list[tuple[str, ...]]:
    """The timeline as a table: phase, tokens, steps, batch, sequence, blend."""
    return [
        (
            plan.name,
            f"{plan.num_tokens:,}",
            f"{plan.num_steps:,}",
            f"{plan.phase.global_batch_size:,}",
            f"{plan.phase.sequence_length:,}",
            plan.phase.blend,
        )
        for plan in timeline.phases
    ]


def _bits_table(figures: dict[str, Any]) -> str:
    columns = [name for name in DOMAINS if name in figures["bits_per_byte"]]
    rows = [("model", *(f"{figures['bits_per_byte'][name]:.3f}" for name in columns))]
    for title, key in (("gzip -9", "gzip"), ("xz -9e", "xz")):
        by_domain = figures[f"{key}_bits_per_byte_by_domain"]
        if by_domain:
            rows.append((title, *(f"{by_domain[name]:.3f}" if name in by_domain else "" for name in columns)))
    return table(("", *columns), rows)


def _task_table(tasks: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            f"{task['acc']:.3f} ± {task['acc_stderr']:.3f}",
            f"{task.get('chance', float('nan')):.2f}",
            str(task.get("num_items", "")),
        )
        for name, task in tasks.items()
        if task.get("acc") is not None
    ]
    return table(("task", "accuracy", "chance", "items"), rows)
