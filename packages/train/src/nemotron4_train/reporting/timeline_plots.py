"""Plots over training tokens on one shared axis, phases shaded: what a job plans, and the layout of all such plots.

run_plots.py draws what a run measured on the same axis.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nemotron4_eval.heldout.text import domain_of
from nemotron4_train.job import TrainJob
from nemotron4_train.reporting.domains import INK, domain_colours, ordered_domains
from nemotron4_train.schedule import PhasePlan, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

WIDTH = 9.0
"""Of every plot, in inches."""

Panel = tuple[float, "Callable[[Axes, float], None]"]
"""A panel's relative height, and the function that draws it: (axes, tokens per unit of the x axis)."""

_PHASE_FILLS = ("#f4f6f8", "#e7edf3")
_CURVE_POINTS = 400


def plan_panels(job: TrainJob, timeline: Timeline) -> list[Panel]:
    """Panels of what the job fixes before it runs."""
    return [
        (1.6, lambda axis, scale: _draw_learning_rate(axis, job, timeline, scale)),
        (1.6, lambda axis, scale: _draw_batch(axis, timeline, scale)),
        (1.6, lambda axis, scale: _draw_blend(axis, job, timeline, scale)),
    ]


def figure_over_tokens(timeline: Timeline, panels: Sequence[Panel]) -> Figure:
    """Panels one below the other over the training tokens of the timeline, its phases shaded and named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height_over_tokens(panels)), layout="constrained")
    draw_over_tokens(figure, timeline, panels)
    return figure


def height_over_tokens(panels: Sequence[Panel]) -> float:
    """Inches that the panels and their common axis take."""
    return 0.6 + sum(height for height, _ in panels)


def draw_over_tokens(figure: FigureBase, timeline: Timeline, panels: Sequence[Panel]) -> None:
    """Draw `figure_over_tokens` into a figure, or a part of one, that has a constrained layout."""
    heights = [height for height, _ in panels]
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    scale, unit = _token_unit(timeline.num_tokens)
    for axis, (_, draw) in zip(axes, panels, strict=True):
        draw(axis, scale)
        _shade_phases(axis, timeline, scale)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    _name_phases(axes[0], timeline, scale)
    axes[-1].set_xlabel(f"training tokens ({unit})")
    axes[-1].set_xlim(0, timeline.num_tokens / scale)
    figure.align_ylabels(axes)


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def as_data_uri(figure: Figure) -> str:
    """The figure as a PNG in a data: URI, for an HTML page in one file."""
    return "data:image/png;base64," + base64.b64encode(as_png(figure)).decode()


def _token_unit(num_tokens: int) -> tuple[float, str]:
    for scale, unit in ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if num_tokens >= scale:
            return scale, unit
    return 1.0, "tokens"


def _draw_learning_rate(axis: Axes, job: TrainJob, timeline: Timeline, scale: float) -> None:
    tokens = [max(1, round(timeline.num_tokens * i / _CURVE_POINTS)) for i in range(_CURVE_POINTS + 1)]
    rates = [job.optimizer.matrix_lr * timeline.learning_rate_fraction(token) for token in tokens]
    axis.plot([token / scale for token in tokens], rates, color=INK, linewidth=1.4)
    axis.set_ylabel("learning rate\n(matrices)")


def _draw_batch(axis: Axes, timeline: Timeline, scale: float) -> None:
    plans, edges = _edges(timeline, scale)
    axis.stairs([plan.phase.global_batch_size for plan in plans], edges, baseline=None, color=INK)
    axis.set_ylim(0, None)
    axis.set_ylabel("global batch\n(sequences)")


def _draw_blend(axis: Axes, job: TrainJob, timeline: Timeline, scale: float) -> None:
    plans, edges = _edges(timeline, scale)
    shares = [_domain_shares(job.blend.distributions[plan.phase.blend].weights) for plan in plans]
    colours = domain_colours(ordered_domains(job.blend, []))
    floor = [0.0] * len(shares)
    for domain in dict.fromkeys(name for share in shares for name in share):
        top = [low + share.get(domain, 0.0) for low, share in zip(floor, shares, strict=True)]
        axis.stairs(top, edges, baseline=floor, fill=True, color=colours[domain], alpha=0.75, label=domain)
        floor = top
    for plan, first, last in _drawn_phases(timeline):
        if last - first >= 0.08 * timeline.num_tokens:
            _name_parts(axis, job.blend.distributions[plan.phase.blend].weights, first / scale, last / scale)
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower left")
    axis.set_ylabel("blend\n(share)")


def _name_parts(axis: Axes, weights: Mapping[str, float], first: float, last: float) -> None:
    """Name the parts of a domain that a distribution weights separately, such as books of english/books."""
    floor = 0.0
    for domain in _domain_shares(weights):
        for key in [key for key in weights if domain_of(key) == domain]:
            part, share = key.partition("/")[2], weights[key]
            if part:
                axis.hlines(floor + share, first, last, color="white", linewidth=0.8)
                if share >= 0.08:
                    middle = (first + last) / 2
                    axis.text(middle, floor + share / 2, part, color="white", fontsize=7, ha="center", va="center")
            floor += share


def _edges(timeline: Timeline, scale: float) -> tuple[list[PhasePlan], list[float]]:
    drawn = _drawn_phases(timeline)
    return [plan for plan, _, _ in drawn], [drawn[0][1] / scale, *(last / scale for _, _, last in drawn)]


def _domain_shares(weights: Mapping[str, float]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for key, weight in weights.items():
        domain = domain_of(key)
        shares[domain] = shares.get(domain, 0.0) + weight
    return shares


def _shade_phases(axis: Axes, timeline: Timeline, scale: float) -> None:
    for index, (_, first, last) in enumerate(_drawn_phases(timeline)):
        axis.axvspan(first / scale, last / scale, color=_PHASE_FILLS[index % 2], zorder=-10, linewidth=0)


def _name_phases(axis: Axes, timeline: Timeline, scale: float) -> None:
    for plan, first, last in _drawn_phases(timeline):
        if last - first >= 0.06 * timeline.num_tokens:
            middle = (first + last) / 2 / scale
            axis.text(middle, 1.02, plan.name, transform=axis.get_xaxis_transform(), ha="center", fontsize=8)


def _drawn_phases(timeline: Timeline) -> list[tuple[PhasePlan, int, int]]:
    """Phases with their first and last token, cut where `max_steps` cuts the timeline."""
    end = timeline.num_tokens
    return [
        (plan, plan.first_token, min(plan.first_token + plan.num_tokens, end))
        for plan in timeline.phases
        if plan.first_token < end
    ]
