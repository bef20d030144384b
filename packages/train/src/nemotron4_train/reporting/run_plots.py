"""Plots of what a run measured, over training tokens, above what its job planned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nemotron4_train.job import TrainJob
from nemotron4_train.reporting.domains import INK, PALETTE, domain_colours, ordered_domains
from nemotron4_train.reporting.evaluations import Curve, accuracy_curves, gold_curves
from nemotron4_train.reporting.metrics import Rows, accepted
from nemotron4_train.reporting.mfu import NAME as MFU_NAME
from nemotron4_train.reporting.timeline_plots import Panel, figure_over_tokens, plan_panels
from nemotron4_train.schedule import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COMPARED_DASHES = ("--", "-.", (0, (1, 1)))
_BASELINE_COLOURS = {"gzip -9": "#999999", "xz -9e": "#666666"}
_DRAWN_POINTS = 2_000
"""A plot 9 inches wide can show no more."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows of a run's metrics files."""

    steps: Rows
    """metrics.csv."""
    validation: Rows
    """validation.csv."""
    domains: Rows = ()
    """domains.csv."""
    evaluations: Rows = ()
    """evaluations.csv."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Bits per byte of compressors on the same held-out text."""
    compared: Mapping[str, Rows] = field(default_factory=dict)
    """validation.csv of other runs, by the name to show."""


def run_figure(job: TrainJob, timeline: Timeline, measured: Measured) -> Figure:
    """Losses, held-out bits per byte, gradient norm and speed, above learning rate, batch and blend."""
    steps = measured.steps
    rows = [*measured.validation, *(row for rows in measured.compared.values() for row in rows)]
    trained = ({row["domain"]: None} for row in measured.domains)
    colours = domain_colours(ordered_domains(job.blend, [*rows, *trained]))
    panels: list[Panel] = [(2.8, lambda axis, scale: _draw_loss(axis, steps, scale))]
    if measured.domains:
        panels.append((2.2, lambda axis, scale: _draw_domain_losses(axis, measured.domains, colours, scale)))
    panels.append((3.0, lambda axis, scale: _draw_validation(axis, measured, colours, scale)))
    if measured.compared:
        panels.append((2.2, lambda axis, scale: _draw_differences(axis, measured, colours, scale)))
    panels += _evaluation_panels(measured.evaluations)
    panels.append((1.6, lambda axis, scale: _draw_grad_norm(axis, steps, job.optimizer.clip_norm, scale)))
    panels.append((1.6, lambda axis, scale: _draw_speed(axis, steps, scale)))
    return figure_over_tokens(timeline, [*panels, *plan_panels(job, timeline)])


def _series(rows: Rows, column: str, scale: float) -> tuple[list[float], list[float]]:
    """Tokens (scaled for the axis) and values of the rows that have a finite value."""
    found = [(int(row["tokens"]) / scale, float(row[column])) for row in rows if row.get(column)]
    finite = [(tokens, value) for tokens, value in found if math.isfinite(value)]
    return [tokens for tokens, _ in finite], [value for _, value in finite]


def _smooth(values: Sequence[float], weight: float = 0.93) -> list[float]:
    """Exponential moving average, unbiased at the start."""
    smoothed, average, norm = [], 0.0, 0.0
    for value in values:
        average, norm = weight * average + (1 - weight) * value, weight * norm + (1 - weight)
        smoothed.append(average / norm)
    return smoothed


def _plot_smoothed(axis: Axes, tokens: Sequence[float], values: Sequence[float], label: str) -> list[float]:
    """Draw the values faintly and their moving average clearly; returns the average."""
    smoothed, stride = _smooth(values), 1 + len(values) // _DRAWN_POINTS
    axis.plot(tokens[::stride], values[::stride], color=PALETTE[0], linewidth=0.5, alpha=0.35)
    axis.plot(tokens[::stride], smoothed[::stride], color=PALETTE[0], linewidth=1.6, label=label)
    return smoothed


def _legend(axis: Axes, columns: int = 1) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8, ncols=columns)


def _draw_loss(axis: Axes, steps: Rows, scale: float) -> None:
    tokens, losses = _series(accepted(steps), "loss", scale)
    smoothed = _plot_smoothed(axis, tokens, losses, "training loss, smoothed")
    if losses:
        axis.set_ylim(min(losses) * 0.95, max(smoothed[len(losses) // 50 :]) * 1.02)
    skipped = [int(row["tokens"]) / scale for row in steps if row.get("skipped") == "1"]
    if skipped:
        marks = axis.get_xaxis_transform()
        label = f"skipped steps ({len(skipped)})"
        axis.plot(skipped, [0.03] * len(skipped), "x", color="#c0282d", markersize=5, transform=marks, label=label)
    _legend(axis)
    axis.set_ylabel("loss\n(nats per token)")


def _draw_domain_losses(axis: Axes, domains: Rows, colours: Mapping[str, str], scale: float) -> None:
    for name in dict.fromkeys(row["domain"] for row in domains):
        rows = [row for row in domains if row["domain"] == name]
        tokens, losses = _series(rows[:: 1 + len(rows) // _DRAWN_POINTS], "loss", scale)
        axis.plot(tokens, losses, linewidth=1.2, color=colours[name], label=name)
    _legend(axis, 3)
    axis.set_ylabel("training loss\nby domain\n(nats per token)")


def _draw_validation(axis: Axes, measured: Measured, colours: Mapping[str, str], scale: float) -> None:
    for name in colours:
        tokens, values = _series(measured.validation, name, scale)
        if values:
            axis.plot(tokens, values, "o-", markersize=3, linewidth=1.4, color=colours[name], label=name)
        for index, rows in enumerate(measured.compared.values()):
            axis.plot(*_series(rows, name, scale), linestyle=_dashes(index), linewidth=1.1, color=colours[name])
    for index, label in enumerate(measured.compared):
        axis.plot([], [], linestyle=_dashes(index), linewidth=1.1, color="#666666", label=label)
    for name, value in measured.baselines.items():
        axis.axhline(value, color=_BASELINE_COLOURS[name], linestyle=":", linewidth=1.2, label=f"{name} {value:.2f}")
    _legend(axis, 2)
    axis.set_ylabel("held-out\nbits per byte")


def _evaluation_panels(rows: Rows) -> list[Panel]:
    """Accuracies, and bits per byte of right answers; a task or benchmark has one colour in both."""
    accuracies, bits = accuracy_curves(rows), gold_curves(rows)
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate({**accuracies, **bits})}
    labels = "benchmarks:\naccuracy", "benchmarks:\nright answers,\nbits per byte"
    return [
        (2.6, partial(_draw_evaluations, curves=curves, colours=colours, label=label))
        for curves, label in zip((accuracies, bits), labels, strict=True)
        if curves
    ]


def _draw_evaluations(
    axis: Axes, scale: float, *, curves: Mapping[str, Curve], colours: Mapping[str, str], label: str
) -> None:
    for name, curve in curves.items():
        tokens = [each / scale for each in curve.tokens]
        axis.plot(tokens, curve.values, "o-", markersize=3, linewidth=1.4, color=colours[name], label=name)
        if curve.chance is not None:
            axis.axhline(curve.chance, color=colours[name], linestyle=":", linewidth=1.1)
    if any(curve.chance is not None for curve in curves.values()):
        axis.plot([], [], color="#666666", linestyle=":", linewidth=1.1, label="chance, in the task's colour")
    _legend(axis, 2)
    axis.set_ylabel(label)


def _draw_differences(axis: Axes, measured: Measured, colours: Mapping[str, str], scale: float) -> None:
    """The other run's bits per byte minus this one's, where both were validated after the same tokens."""
    ours = {row["tokens"]: row for row in measured.validation}
    for index, (label, rows) in enumerate(measured.compared.items()):
        for name in colours:
            pairs = [(row, ours[row["tokens"]]) for row in rows if row["tokens"] in ours]
            found = [(row, theirs) for row, theirs in pairs if row.get(name) and theirs.get(name)]
            tokens = [int(row["tokens"]) / scale for row, _ in found]
            values = [float(row[name]) - float(theirs[name]) for row, theirs in found]
            axis.plot(tokens, values, "o", markersize=2.5, linestyle=_dashes(index), linewidth=1.1, color=colours[name])
        axis.plot([], [], linestyle=_dashes(index), linewidth=1.1, color="#666666", label=f"{label} minus this run")
    axis.axhline(0, color=INK, linewidth=0.8)
    _legend(axis)
    axis.set_ylabel("difference in\nheld-out\nbits per byte")


def _dashes(index: int) -> str | tuple[int, tuple[int, int]]:
    return _COMPARED_DASHES[index % len(_COMPARED_DASHES)]


def _draw_grad_norm(axis: Axes, steps: Rows, clip_norm: float, scale: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    tokens, norms = _series(steps, "grad_norm", scale)
    _plot_smoothed(axis, tokens, norms, "before clipping, smoothed")
    axis.axhline(clip_norm, color="#999999", linestyle=":", linewidth=1.2, label=f"clipped to {clip_norm:g}")
    if norms and min(norms) > 0:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    _legend(axis, 2)
    axis.set_ylabel("gradient\nnorm")


def _draw_speed(axis: Axes, steps: Rows, scale: float) -> None:
    tokens, speeds = _series(steps, "tokens_per_second", scale)
    _plot_smoothed(axis, tokens, speeds, "tokens/s, smoothed")
    axis.set_ylim(0, _usual_top(speeds))
    axis.set_ylabel("tokens/s")
    tokens, shares = _series(steps, "mfu", scale)
    if shares:
        percent = [100 * share for share in _smooth(shares)]
        right = axis.twinx()
        right.plot(tokens, percent, color=PALETTE[1], linewidth=1.2)
        right.set_ylim(0, _usual_top(percent))
        right.set_ylabel(f"{MFU_NAME.replace(' ', chr(10), 1)}, %", color=PALETTE[1])
        right.spines["top"].set_visible(False)
    _legend(axis)


def _usual_top(values: Sequence[float]) -> float | None:
    """Upper limit of an axis that a few outliers may exceed."""
    return 1.15 * sorted(values)[int(0.98 * (len(values) - 1))] if values else None
