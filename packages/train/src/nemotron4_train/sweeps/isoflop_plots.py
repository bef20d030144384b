"""The plot of an IsoFLOP study (isoflop.py): the curves with their parabolas, and the best size over the budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nemotron4_train.reporting.domains import INK, PALETTE
from nemotron4_train.sweeps.isoflop import CHINCHILLA_TOKENS_PER_PARAMETER, Study, at_budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVE_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#d1701f", "#3a8f4d", "#7a3f9c")


def isoflop_figure(found: Study) -> Figure:
    """Plot the content of isoflop.json."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    curves, law = figure.subplots(1, 2)
    _draw_curves(curves, found)
    _draw_law(law, found)
    for axis in (curves, law):
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xscale("log")
        axis.legend(frameon=False, fontsize=8)
    return figure


def _draw_curves(axis: Axes, found: Study) -> None:
    """Points of all runs; a parabola and its lowest point only where there is a minimum."""
    for index, budget in enumerate(found["budgets"]):
        colour = _CURVE_COLOURS[index % len(_CURVE_COLOURS)]
        runs = [run for run in found["runs"] if run["budget_flops"] == budget["budget_flops"]]
        label = f"{budget['budget_flops']:.3g} FLOPs" + ("" if budget["minimum"] else " (no minimum)")
        axis.plot([run["parameters"] for run in runs], [run["bits_per_byte"] for run in runs], "o", color=colour)
        axis.plot([], [], "o-" if budget["minimum"] else "o", color=colour, label=label)
        if (minimum := budget["minimum"]) and (parabola := budget["parabola"]):
            fitted = budget["fitted_parameters"]
            x = np.linspace(math.log10(fitted[0]), math.log10(fitted[-1]), 100)
            axis.plot(10**x, np.polyval(parabola, x), color=colour, linewidth=1.2)
            axis.plot(minimum["parameters"], minimum["bits_per_byte"], "*", color=INK, markersize=9)
    axis.set_xlabel("parameters without the input embedding")
    axis.set_ylabel("held-out bits per byte")


def _draw_law(axis: Axes, found: Study) -> None:
    placed = found["nemotron4_15b"]
    flops = np.array([min(budget["budget_flops"] for budget in found["budgets"]), placed["flops"]])
    minima = [(budget["budget_flops"], budget["minimum"]) for budget in found["budgets"] if budget["minimum"]]
    points = [budget_flops for budget_flops, _ in minima], [minimum["parameters"] for _, minimum in minima]
    axis.plot(*points, "*", color=INK, markersize=9, label="minima")
    if found["law"] and placed["law"]:
        fitted = found["law"]["parameters"]
        for ends, style in (((points[0][0], points[0][-1]), "-"), ((points[0][-1], placed["flops"]), ":")):
            axis.plot(ends, [at_budget(fitted, end) for end in ends], style, color=PALETTE[0])
        decades = placed["decades_above_largest_budget"]
        label = f"law, exponent {fitted['exponent']:.2f}; dotted: {decades:.0f} decades extrapolated, not evidence"
        axis.plot([], [], color=PALETTE[0], label=label)
        if span := placed["law"]["parameters"]["range"]:
            axis.plot([placed["flops"]] * 2, span, color=PALETTE[0], linewidth=3, alpha=0.4)
    ratio = CHINCHILLA_TOKENS_PER_PARAMETER
    axis.plot(flops, np.sqrt(flops / (6 * ratio)), "--", color="#999999", label=f"{ratio} tokens per parameter")
    name = f"Nemotron-4 15B, {placed['tokens_per_parameter']:.0f} tokens per parameter"
    axis.plot(placed["flops"], placed["parameters"], "D", color=PALETTE[1], label=name)
    axis.set_yscale("log")
    axis.set_xlabel("training FLOPs")
    axis.set_ylabel("best parameters")
