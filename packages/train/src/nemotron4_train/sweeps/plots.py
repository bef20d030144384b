"""Plots of a sweep: the objective against each key that varied, and all of them as parallel coordinates.

Numbers have a linear axis, or a logarithmic one if they span more than a decade; other values are evenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemotron4_train.reporting.domains import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OBJECTIVE = "held-out bits per byte"
Settings = Sequence[Mapping[str, str]]
"""Each job's values by key, as they were typed."""


@dataclass(frozen=True)
class Scale:
    """Places the values of one key between 0 and 1."""

    numbers: bool
    log: bool
    values: tuple[str, ...]
    """The distinct values; numbers ascending, others in order of appearance."""

    @staticmethod
    def of(values: Sequence[str]) -> Scale:
        """The scale for the values of one key."""
        different = tuple(dict.fromkeys(values))
        if not all(map(is_number, different)):
            return Scale(False, False, different)
        different = tuple(sorted(different, key=float))
        low, high = float(different[0]), float(different[-1])
        return Scale(True, low > 0 and high / low > 10, different)

    def place(self, value: str) -> float:
        """The value's place."""
        if not self.numbers:
            return self.values.index(value) / max(1, len(self.values) - 1)
        low, high, at = (self._transform(text) for text in (self.values[0], self.values[-1], value))
        return (at - low) / (high - low) if high > low else 0.5

    def _transform(self, text: str) -> float:
        return math.log(float(text)) if self.log else float(text)


def is_number(text: str) -> bool:
    """Whether a typed value is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def key_figure(key: str, settings: Settings, objectives: Sequence[float]) -> Figure:
    """The objective against one key; jobs that differ in nothing else are joined by a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    scale = Scale.of([setting[key] for setting in settings])
    if not scale.numbers:
        axis.set_xticks(range(len(scale.values)), scale.values)
        axis.margins(x=0.2)
    curves: dict[str, list[tuple[float, float]]] = {}
    for setting, objective in zip(settings, objectives, strict=True):
        others = ", ".join(f"{name}={value}" for name, value in setting.items() if name != key)
        at = float(setting[key]) if scale.numbers else scale.values.index(setting[key])
        curves.setdefault(others, []).append((at, objective))
    for others, points in curves.items():
        few = len(curves) <= 8  # more would fit neither the legend nor the palette
        colour = None if few else PALETTE[0]
        line = "-" if few and scale.numbers else "none"
        axis.plot(
            *zip(*sorted(points), strict=True), marker="o", linestyle=line, linewidth=1, color=colour, label=others
        )
    if 1 < len(curves) <= 8:
        figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper center")
    if scale.log:
        axis.set_xscale("log")
    axis.set_xlabel(key)
    axis.set_ylabel(OBJECTIVE)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def parallel_figure(keys: Sequence[str], settings: Settings, objectives: Sequence[float]) -> Figure:
    """Each job as a line across one vertical axis per key and the objective, which colours it; the best are on top."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    columns = [[setting[key] for setting in settings] for key in keys] + [[f"{value}" for value in objectives]]
    scales = [Scale.of(column) for column in columns]
    figure = Figure(figsize=(2 + 1.6 * len(columns), 4), layout="constrained")
    axis = figure.subplots()
    norm, colours = Normalize(min(objectives), max(objectives)), colormaps["viridis_r"]
    for *values, objective in sorted(zip(*columns, objectives, strict=True), key=lambda job: -job[-1]):
        places = [scale.place(value) for scale, value in zip(scales, values, strict=True)]
        axis.plot(places, color=colours(norm(objective)), linewidth=1.6, marker="o", markersize=3)
    for position, scale in enumerate(scales):
        axis.axvline(position, color="#999999", linewidth=0.8, zorder=0)
        _name_values(axis, position, scale)
    axis.set_xticks(range(len(columns)), [*keys, OBJECTIVE])
    axis.set_yticks([])
    axis.set_xlim(-0.2, len(columns) - 0.6)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure


def _name_values(axis: Axes, position: int, scale: Scale) -> None:
    """Write the values beside their axis; if there are many numbers, only the ends."""
    shown = scale.values if len(scale.values) <= 6 or not scale.numbers else (scale.values[0], scale.values[-1])
    box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
    for value in shown:
        text = f"{float(value):.4g}" if scale.numbers else value
        axis.text(position + 0.05, scale.place(value), text, fontsize=8, va="center", bbox=box)
