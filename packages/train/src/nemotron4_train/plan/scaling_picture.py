"""The picture of a job beside the scaling laws (scaling.py): sizes and tokens of equal loss, and what serving changes.

Loss and serving follow the corrected law of Besiroglu et al.; the other laws are lines of the left panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nemotron4_train.plan.cells import short
from nemotron4_train.plan.scaling import APPROACH_1, APPROACH_3, CORRECTED, MEASURED, Choice, Scaling
from nemotron4_train.reporting.domains import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

_JOB = PALETTE[1]
_LINES = ((CORRECTED, "-", INK), (APPROACH_1, "--", PALETTE[0]), (APPROACH_3, "-.", PALETTE[3]), (MEASURED, ":", INK))
_SERVED_COLOURS = (PALETTE[0], PALETTE[4], PALETTE[2], PALETTE[5], PALETTE[3])
_MOST_OVERHEAD = 4.0
_BOX = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}


def scaling_figure(found: Scaling) -> Figure:
    """Draw a job beside the laws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.2), layout="constrained")
    plane, overhead = figure.subplots(1, 2)
    served = _drawn_served(found)
    _draw_plane(plane, found, served)
    _draw_overhead(overhead, found, served)
    plane.set_yscale("log")
    for axis in (plane, overhead):
        axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("parameters")
    for ticks in (plane.xaxis, plane.yaxis, overhead.xaxis):
        ticks.set_major_locator(_log_ticks())
        ticks.set_major_formatter(lambda value, _: short(value))
        ticks.set_minor_formatter(lambda value, _: "")
    return figure


def _drawn_served(found: Scaling) -> list[tuple[float, Choice]]:
    """Served tokens, ascending, and the best size and tokens: none, what makes the job's own choice the best, an eighth
    and eight times of that, and plan.served_tokens."""
    at_best = CORRECTED.served_at_best(found.job)
    middle = at_best if at_best > 0 else found.job.tokens
    amounts = {0.0, middle, found.served_tokens or 0.0, *(float(f"{middle * factor:.0e}") for factor in (1 / 8, 8))}
    loss = CORRECTED.loss(found.job)
    return [(amount, CORRECTED.best_served(loss, amount)) for amount in sorted(amounts)]


def _draw_plane(axis: Axes, found: Scaling, served: list[tuple[float, Choice]]) -> None:
    job, budget = found.job, found.training_flops
    shown = [job, *(each.best for each in found.advice), *(best for _, best in served)]
    low, high = ([edge(getattr(c, of) for c in shown) for of in ("parameters", "tokens")] for edge in (min, max))
    low[0] = min(low[0], job.parameters / 2.5)  # room for its name
    x, y = (np.geomspace(start / 4, end * 2.5, 150) for start, end in zip(low, high, strict=True))
    loss = CORRECTED.e + CORRECTED.a / x[None, :] ** CORRECTED.alpha + CORRECTED.b / y[:, None] ** CORRECTED.beta
    axis.pcolormesh(x, y, np.log(loss - CORRECTED.e), cmap="Blues_r", vmin=-4.5, rasterized=True)
    axis.contour(x, y, np.log(loss - CORRECTED.e), levels=14, colors="white", linestyles="solid", linewidths=0.6)
    own = CORRECTED.loss(job)
    axis.contour(x, y, loss, levels=[own], colors=[_JOB], linewidths=2.2)
    axis.plot([], [], color=_JOB, linewidth=2.2, label=f"the job's loss by {CORRECTED.name}: {own:.3f}")
    axis.plot(x, budget / (6 * x), color=INK, linewidth=0.7, label=f"the job's training, {budget:.3g} FLOPs")
    for law, style, colour in _LINES:
        chosen = [law.best(float(flops)) for flops in np.geomspace(budget / 1e6, budget * 1e6, 60)]
        line = [each.parameters for each in chosen], [each.tokens for each in chosen]
        axis.plot(*line, style, color=colour, linewidth=1.3, label=f"best for training: {law.name}")
    for amount, best in served:
        axis.plot(best.parameters, best.tokens, "o", color=_JOB, markeredgecolor="white", markersize=7)
        text = f"{short(amount) if amount else 'none'} served"
        axis.annotate(text, (best.parameters, best.tokens), (8, 5), textcoords="offset points", fontsize=8, bbox=_BOX)
    axis.plot(job.parameters, job.tokens, "D", color=_JOB, markeredgecolor=INK, markersize=9)
    text = f"{short(job.parameters)} on {short(job.tokens)} tokens"
    axis.annotate(text, (job.parameters, job.tokens), (-10, -4), textcoords="offset points", ha="right", weight="bold",
                  bbox=_BOX)  # fmt: skip
    axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), ylabel="training tokens")
    axis.set_title("One loss, many sizes: the best size shrinks as more is served", fontsize=11)
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _draw_overhead(axis: Axes, found: Scaling, served: list[tuple[float, Choice]]) -> None:
    """FLOPs to train and to serve at the job's loss, over the fewest, for each number of served tokens."""
    own, job = CORRECTED.loss(found.job), found.job
    x = np.geomspace(served[-1][1].parameters / 3, max(served[0][1].parameters * 6, job.parameters * 1.5), 400)
    for (amount, best), colour in zip(served, _SERVED_COLOURS, strict=False):
        sizes = [Choice(parameters=n, tokens=CORRECTED.tokens_for(own, n)) for n in map(float, x)]
        over = [each.flops(amount) / best.flops(amount) for each in sizes]
        colour = _JOB if amount == CORRECTED.served_at_best(job) else colour  # its curve is lowest at the job's size
        label = (
            f"{short(amount) if amount else 'no'} tokens served: best {short(best.parameters)} on {short(best.tokens)}"
        )
        axis.plot(x, over, color=colour, linewidth=1.8, label=label)
        axis.plot(best.parameters, 1, "o", color=colour, markeredgecolor="white", markersize=7, clip_on=False)
        axis.plot(job.parameters, job.flops(amount) / best.flops(amount), "D", color=colour, markeredgecolor=INK)
    axis.axvline(job.parameters, color=INK, linewidth=0.7)
    axis.annotate(short(job.parameters), (job.parameters, 0.97), (4, 0), ("data", "axes fraction"),
                  textcoords="offset points", weight="bold", va="top")  # fmt: skip
    axis.set_ylim(0.9, _MOST_OVERHEAD)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_ylabel("FLOPs of training and serving, times the fewest")
    axis.set_title(
        f"What another size costs at the loss of {short(job.parameters)} on {short(job.tokens)}", fontsize=11
    )
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)


def _log_ticks() -> LogLocator:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 3))
