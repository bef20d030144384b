"""A run's report: report.html (plots and tables, in one file) and report.json (the same figures for programs).

Built from the files of the run directory, so it can be written during a run, after it, and again after an evaluation.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NotRequired

from nemotron4_common.html_page import details, page, table
from nemotron4_common.staging import write_file
from nemotron4_eval.eval_job import RESULT_FILE
from nemotron4_train.job import TrainJob
from nemotron4_train.reporting.comparison import (
    ComparedRun,
    FinalFigures,
    check_comparable,
    comparison_rows,
    final_figures,
    source_rows,
)
from nemotron4_train.reporting.domains import ordered_domains
from nemotron4_train.reporting.evaluations import FILE as EVALUATIONS_FILE
from nemotron4_train.reporting.evaluations import last_evaluation
from nemotron4_train.reporting.metrics import Rows, accepted, read_rows
from nemotron4_train.reporting.mfu import NAME as MFU_NAME
from nemotron4_train.reporting.predictions import Predictions, prediction_table, predictions
from nemotron4_train.run_directory import read_record
from nemotron4_train.schedule import Timeline


@dataclass(kw_only=True)
class ReportJob:
    """Which run to report on."""

    run: str
    """A run directory, such as runs/demo/latest."""
    compare: list[str] = field(default_factory=list)
    """Directories of other runs, whose held-out bits per byte are shown beside this one's."""


class Figures(Predictions):
    """report.json."""

    run: str
    tokens: int
    steps: int
    num_steps: int
    parameters: int
    parameters_without_input_embedding: int
    budget_flops: float | None
    loss: float | None
    """Of the last accepted step."""
    tokens_per_second: float | None
    mfu: float | None
    bits_per_byte: dict[str, float]
    bits_per_byte_from: str
    gzip_bits_per_byte: float | None
    gzip_bits_per_byte_by_domain: dict[str, float]
    xz_bits_per_byte: float | None
    xz_bits_per_byte_by_domain: dict[str, float]
    evaluated_checkpoint: str | None
    """Name of the evaluated checkpoint."""
    tasks: dict[str, dict[str, Any]]
    state: NotRequired[str]
    """State of the run, or unknown."""
    comparison: NotRequired[list[FinalFigures]]
    epochs: NotRequired[dict[str, float]]
    """By source."""


def write_report(run_directory: Path, job: TrainJob, compare: Mapping[Path, TrainJob] | None = None) -> Path:
    """Write report.json and report.html; returns the page's path.

    `compare` maps other run directories to their jobs. Raises ValueError for one that cannot be compared.
    """
    from nemotron4_train.reporting.run_plots import Measured, run_figure
    from nemotron4_train.reporting.timeline_plots import as_data_uri

    timeline = job.timeline()
    steps = read_rows(run_directory / "metrics.csv")
    run, *others = _read_runs({run_directory: job} | dict(compare or {}))
    check_comparable(run, others)
    record = read_record(run_directory)
    figures: Figures = {
        **report_figures(job, timeline, steps, run.validation, run.evaluation),
        **predictions(job, steps, record.gpu if record else None),
    }
    figures["state"] = record.state if record else "unknown"
    if not run.evaluation and (run_directory / RESULT_FILE).is_file():
        figures["bits_per_byte_from"] += f"; {RESULT_FILE} here belongs to another run"
    if others:
        rows = [row for each in (run, *others) for row in (*each.validation, each.evaluation.get("bits_per_byte", {}))]
        figures["comparison"] = final_figures([run, *others], ordered_domains(job.blend, rows))
    sources = _last_rows(read_rows(run_directory / "sources.csv"))
    figures["epochs"] = {row["source"]: float(row["epochs"]) for row in sources}
    write_file(run_directory / "report.json", (json.dumps(figures, indent=1) + "\n").encode())
    measured = Measured(
        steps=steps,
        validation=run.validation,
        domains=read_rows(run_directory / "domains.csv"),
        evaluations=read_rows(run_directory / EVALUATIONS_FILE),
        baselines=_baselines(figures),
        compared={other.label: other.validation for other in others},
    )
    picture = as_data_uri(run_figure(job, timeline, measured))
    path = run_directory / "report.html"
    page_text = _page(job, timeline, figures, run.evaluation, picture, measured.evaluations, sources, run_directory)
    write_file(path, page_text.encode())
    return path


def _read_runs(jobs: Mapping[Path, TrainJob]) -> list[ComparedRun]:
    """The compared runs, labelled by name, or by directory where names repeat."""
    names = [job.run.name for job in jobs.values()]
    return [
        ComparedRun(
            label=job.run.name if names.count(job.run.name) == 1 else str(directory),
            job=job,
            validation=read_rows(directory / "validation.csv"),
            evaluation=evaluation_of(directory),
        )
        for directory, job in jobs.items()
    ]


def _last_rows(rows: Rows) -> list[Mapping[str, str]]:
    """The rows of the last step that has any."""
    return [row for row in rows if row["step"] == rows[-1]["step"]]


def _baselines(figures: Figures) -> dict[str, float]:
    named = (("gzip -9", figures["gzip_bits_per_byte"]), ("xz -9e", figures["xz_bits_per_byte"]))
    return {name: value for name, value in named if value is not None}


def report_figures(
    job: TrainJob,
    timeline: Timeline,
    steps: Rows,
    validation: Rows,
    evaluation: Mapping[str, Any],
) -> Figures:
    """The report's figures; bits per byte come from eval.json or, without one, from the last validation."""
    last = evaluation.get("bits_per_byte") or (validation[-1] if validation else {})
    domains = [name for name in ordered_domains(job.blend, [last]) if last.get(name) not in (None, "")]
    gzip, xz = (evaluation.get(f"{compressor}_bits_per_byte", {}) for compressor in ("gzip", "xz"))
    return {
        "run": job.run.name,
        "tokens": int(steps[-1]["tokens"]) if steps else 0,
        "steps": int(steps[-1]["step"]) if steps else 0,
        "num_steps": timeline.num_steps,
        "parameters": job.model.num_parameters,
        "parameters_without_input_embedding": job.model.num_parameters_without_input_embedding,
        "budget_flops": job.schedule.budget_flops,
        "loss": float(taken[-1]["loss"]) if (taken := accepted(steps)) else None,
        "tokens_per_second": _median(steps, "tokens_per_second"),
        "mfu": _median(steps, "mfu"),
        "bits_per_byte": {name: float(last[name]) for name in domains},
        "bits_per_byte_from": "evaluation" if evaluation else "last validation (part of the held-out text)",
        "gzip_bits_per_byte": gzip.get("overall"),
        "gzip_bits_per_byte_by_domain": {name: gzip[name] for name in domains if name in gzip},
        "xz_bits_per_byte": xz.get("overall"),
        "xz_bits_per_byte_by_domain": {name: xz[name] for name in domains if name in xz},
        "evaluated_checkpoint": evaluation.get("checkpoint"),
        "tasks": evaluation.get("tasks", {}),
    }


def _median(steps: Rows, column: str) -> float | None:
    """The median over the last 1,000 steps that have a value; None if there are none."""
    values = [float(row[column]) for row in steps[-1_000:] if row.get(column)]
    return median(values) if values else None


def evaluation_of(directory: Path) -> dict[str, Any]:
    """The run's eval.json; empty if there is none or it belongs to another run. Older ones do not name their run."""
    loaded = _read_evaluation(directory / RESULT_FILE)
    run_id = loaded.get("run_id")
    if run_id is None:
        return loaded
    record = read_record(directory)
    return loaded if record is not None and record.id == run_id else {}


def _read_evaluation(path: Path) -> dict[str, Any]:
    """eval.json, or empty if there is none. Raises ValueError for a damaged one."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for key in ("bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte") if loaded else ():
            by_domain = loaded.get(key, {}) if key != "bits_per_byte" else loaded[key]
            by_source = by_domain.get("sources", {})
            for value in (*by_source.values(), *(by_domain[name] for name in by_domain if name != "sources")):
                float(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not the result of an evaluation ({error!r}); evaluate again, or remove it"
        ) from error
    return loaded


def _page(
    job: TrainJob,
    timeline: Timeline,
    figures: Figures,
    evaluation: Mapping[str, Any],
    picture: str,
    evaluations: Rows,
    sources: Rows,
    run_directory: Path,
) -> str:
    sections = [
        f"<h1>{html.escape(job.run.name)}</h1><p class=lead>{html.escape(_lead(figures))}</p>",
        "<h2>Held-out bits per byte</h2>",
        _bits_table(figures),
        f"<p class=lead>Lower is better. Model: {html.escape(_measured_from(figures))}"
        f"{'; gzip -9 and xz -9e on the same bytes' if _baselines(figures) else ''}.</p>",
        *_comparison(figures),
        "<h2>Over the timeline</h2>",
        f"<img alt='losses, bits per byte, gradient norm, speed, learning rate, batch and blend' src='{picture}'>",
        "<h2>Timeline</h2>",
        table(("phase", "tokens", "steps", "global batch", "sequence", "blend"), timeline_rows(timeline)),
        "<h2>Predicted and measured</h2>",
        prediction_table(figures),
    ]
    if figures["tasks"]:
        sections += ["<h2>Tasks</h2>", _task_table(figures["tasks"])]
    if evaluations:
        summary = f"Benchmarks after step {evaluations[-1]['step']}, during training"
        sections.append(details(summary, table(*last_evaluation(evaluations))))
    heldout = evaluation.get("bits_per_byte", {}).get("sources", {})
    if sources:
        sections.append(details("Sources: tokens read, and losses", _source_table(sources, heldout)))
    elif heldout:
        rows = [(name, f"{value:.3f}") for name, value in sorted(heldout.items())]
        sections.append(details("Bits per byte by source", table(("source", "bits per byte"), rows)))
    job_yaml = run_directory / "job.yaml"
    if job_yaml.is_file():
        sections.append(details("job.yaml", f"<pre>{html.escape(job_yaml.read_text(encoding='utf-8'))}</pre>"))
    return page(f"nemotron4: {job.run.name}", sections)


def _measured_from(figures: Figures) -> str:
    checkpoint = figures["evaluated_checkpoint"]
    return f"{figures['bits_per_byte_from']}{f' of {checkpoint}' if checkpoint else ''}"


def _lead(figures: Figures) -> str:
    text = (
        f"{figures['parameters']:,} parameters, {figures['tokens']:,} tokens in {figures['steps']:,} of"
        f" {figures['num_steps']:,} steps; {figures['state']}"
    )
    if figures["tokens_per_second"] is not None:
        text += f"; {figures['tokens_per_second']:,.0f} tokens/s"
    if figures["mfu"] is not None:
        text += f", {MFU_NAME} {figures['mfu']:.1%}"
    return text


def _comparison(figures: Figures) -> list[str]:
    compared = figures.get("comparison")
    if not compared:
        return []
    header, *rows = comparison_rows(compared)
    note = f"Held-out bits per byte: {compared[0]['from']} of each run; in brackets, the difference from the first."
    sections = ["<h2>Comparison with other runs</h2>", table(header, rows), f"<p class=lead>{html.escape(note)}</p>"]
    if by_source := source_rows(compared):
        sections.append(details("By source", table(by_source[0], by_source[1:])))
    return sections


def _source_table(sources: Rows, heldout: Mapping[str, float]) -> str:
    """For each source: tokens drawn, training loss over the last interval, and held-out bits per byte if known."""
    header = ("source", "tokens read", "epochs", "training loss", "bits per byte", "held-out bits per byte")
    rows = [
        (
            row["source"],
            f"{int(row['drawn_tokens']):,}",
            f"{float(row['epochs']):.3f}",
            *(f"{float(row[key]):.3f}" if row[key] else "" for key in ("loss", "bits_per_byte")),
            f"{heldout[row['source']]:.3f}" if row["source"] in heldout else "",
        )
        for row in sources
    ]
    return table(header, rows)


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


def _bits_table(figures: Figures) -> str:
    columns = list(figures["bits_per_byte"])
    rows = [("model", *(f"{figures['bits_per_byte'][name]:.3f}" for name in columns))]
    for title, by_domain in (
        ("gzip -9", figures["gzip_bits_per_byte_by_domain"]),
        ("xz -9e", figures["xz_bits_per_byte_by_domain"]),
    ):
        if by_domain:
            rows.append((title, *(f"{by_domain[name]:.3f}" if name in by_domain else "" for name in columns)))
    return table(("", *columns), rows)


def _task_table(tasks: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, task in tasks.items():
        # Older versions wrote each metric as a key of its own.
        value, stderr = task.get("value", task.get("acc")), task.get("stderr", task.get("acc_stderr"))
        if value is not None:
            error = f" ± {stderr:.3f}" if stderr is not None else ""
            chance = f"{task['chance']:.2f}" if "chance" in task else ""
            items = str(task.get("items", task.get("num_items", "")))
            rows.append((name, task.get("metric", "acc"), f"{value:.3f}{error}", chance, items))
    return table(("task", "metric", "value", "chance", "items"), rows)
