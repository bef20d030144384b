"""Comparing a run with others: final held-out bits per byte by domain, and the differences.

Invariant: only figures for the same held-out text are compared; runs that read other text are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from nemotron4_train.job import TrainJob
from nemotron4_train.reporting.metrics import Rows


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """What a comparison needs of a run directory."""

    label: str
    job: TrainJob
    validation: Rows
    """validation.csv; it starts where the run started, which may be a checkpoint of another run."""
    evaluation: Mapping[str, Any]
    """eval.json, or empty."""


# Defined by a call, since `from` is a keyword.
FinalFigures = TypedDict(
    "FinalFigures",
    {
        "run": str,
        "tokens": int,
        "from": str,
        "bits_per_byte": dict[str, float],
        "difference": dict[str, float],
        "sources": dict[str, float],
    },
)
"""A run's final figures, and the difference from the first run's; `sources`: bits per byte by source, if evaluated."""


def check_comparable(run: ComparedRun, others: Sequence[ComparedRun]) -> None:
    """Raise ValueError when a run has no validation, or validates on other held-out text than `run`."""
    for other in others:
        if not other.validation:
            raise ValueError(f"compare ({other.label}): has no validation yet; wait for its first")
        for key, ours, theirs in (
            ("data.dir", Path(run.job.data.dir), Path(other.job.data.dir)),
            (
                "trainer.validation_bytes_per_source",
                run.job.trainer.validation_bytes_per_source,
                other.job.trainer.validation_bytes_per_source,
            ),
        ):
            if ours != theirs:
                raise ValueError(
                    f"compare ({other.label}): its {key} is {theirs}, that of {run.label} is {ours}: bits per byte of"
                    " different held-out text cannot be compared; choose runs that read the same"
                )


def final_figures(runs: Sequence[ComparedRun], domains: Sequence[str]) -> list[FinalFigures]:
    """The figures of each run, beside the first's, for those of `domains` (see `ordered_domains`) that it measured.

    From the evaluations if every run has one of the same number of bytes, otherwise from the last validations.
    """
    num_bytes = {run.evaluation.get("bytes") for run in runs}
    evaluated = len(num_bytes) == 1 and None not in num_bytes
    found: list[FinalFigures] = []
    for run in runs:
        last = run.validation[-1] if run.validation else {}
        values: Mapping[str, Any] = run.evaluation["bits_per_byte"] if evaluated else last
        bits = {name: float(values[name]) for name in domains if values.get(name)}
        first = found[0]["bits_per_byte"] if found else bits
        found.append(
            {
                "run": run.label,
                "tokens": int(last.get("tokens", 0)),
                "from": "evaluation" if evaluated else "last validation",
                "bits_per_byte": bits,
                "difference": {name: bits[name] - first[name] for name in bits if name in first},
                "sources": dict(values.get("sources", {})) if evaluated else {},
            }
        )
    return found


def comparison_rows(figures: Sequence[FinalFigures]) -> list[tuple[str, ...]]:
    """A table: run, tokens, and each domain's bits per byte with the difference from the first run."""
    domains = list(dict.fromkeys(name for run in figures for name in run["bits_per_byte"]))
    rows: list[tuple[str, ...]] = [("run", "tokens", *domains)]
    for index, run in enumerate(figures):
        cells = []
        for name in domains:
            value, difference = run["bits_per_byte"].get(name), run["difference"].get(name)
            shown = "" if value is None else f"{value:.3f}"
            cells.append(shown if index == 0 or difference is None else f"{shown} ({difference:+.3f})")
        rows.append((run["run"], f"{run['tokens']:,}", *cells))
    return rows


def source_rows(figures: Sequence[FinalFigures]) -> list[tuple[str, ...]]:
    """A table: source, and each run's bits per byte there with the difference from the first run; empty without any."""
    first = figures[0]["sources"]
    rows: list[tuple[str, ...]] = [("source", *(run["run"] for run in figures))] if first else []
    for name, value in sorted(first.items()):
        others = [run["sources"].get(name) for run in figures[1:]]
        cells = ["" if other is None else f"{other:.3f} ({other - value:+.3f})" for other in others]
        rows.append((name, f"{value:.3f}", *cells))
    return rows
