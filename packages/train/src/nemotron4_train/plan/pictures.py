"""The picture of a plan: memory of a rank and time of a step as bars, above the timeline.

Invariant: every bar is read off `Estimate`; consecutive phases of a leg whose bars would be the same share one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from nemotron4_train.estimates.memory import KINDS
from nemotron4_train.job import TrainJob
from nemotron4_train.plan.cells import duration
from nemotron4_train.plan.estimate import Estimate, LegEstimate, PhaseEstimate
from nemotron4_train.reporting.domains import INK
from nemotron4_train.reporting.timeline_plots import WIDTH, draw_over_tokens, height_over_tokens, plan_panels
from nemotron4_train.schedule import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

    _Handle = BarContainer | LineCollection

# Blue is what stays or computes, orange what comes and goes or communicates, grey the rest; each from dark to light.
_BLUES = ("#2a6fbb", "#6fa3d9", "#a9c8ea", "#d3e4f6")
_ORANGES = ("#d1701f", "#eba465", "#f8d8b6")
_GREYS = ("#7d848d", "#a4aab1", "#c6cad0", "#e1e4e8")
_COLOURS = dict(zip(KINDS, (*_BLUES[:3], *_ORANGES, _GREYS[2]), strict=True))
"""Colours of the kinds of `Memory`, in the order in which they are drawn."""
_PARTS = dict(
    zip(
        (
            *("matrix products", "attention", "element-wise", "loss"),
            *("tensor communication", "data communication", "pipeline bubble"),
            *("optimizer", "scale", "fixed", "other"),
        ),
        (*_BLUES, *_ORANGES, *_GREYS),
        strict=True,
    )
)
"""Colours of the parts of `StepTime`, in the order in which they are drawn."""
_FAULT = "#c0282d"
_SMALL = 0.02
"""Share of the longest bar; a part that is nowhere longer is drawn as other."""
_LABELLED = 0.06
"""Share of the axis from which a part bears its size."""
_VISIBLE = 0.0005
"""Share of the axis from which a part is in the legend."""
_NAME_LENGTH = 30
_LEGEND_CHARACTERS = 112
"""What fits in a line of the legend, beside the longest names of bars; an entry's colour takes five."""
_ROW_INCHES = 0.44
_THICK = 0.66
"""Of a bar, in rows."""
_FAR = 12.0
"""A mark at so many times the longest bar is not drawn."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of a panel."""

    name: str
    parts: Mapping[str, float]
    """From left to right, in the panel's unit."""
    mark: float | None
    """What the bar is compared with: a capacity, or a published time."""
    note: str
    is_fault: bool = False

    @property
    def length(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A panel of bars."""

    title: str
    mark: str
    colours: Mapping[str, str]
    bars: Sequence[Bar]

    @property
    def height(self) -> float:
        """In inches, with title, axis and legend."""
        return 1.05 + _ROW_INCHES * len(self.bars)


def plan_picture(job: TrainJob, timeline: Timeline, estimate: Estimate) -> Figure:
    """Memory beside what the machine has, a step's time by part where it is known, and the timeline."""
    from matplotlib.figure import Figure

    found = [panel for panel in (memory_bars(estimate), time_bars(estimate)) if panel.bars]
    panels = plan_panels(job, timeline)
    inches = [panel.height for panel in found]
    heights = 0.3 + sum(inches), height_over_tokens(panels)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, hspace=0.03, squeeze=False)[:, 0]
    above.suptitle(_heading(job, timeline, estimate), x=0.006, ha="left", fontsize=11, fontweight="bold")
    axes = above.subplots(len(found), 1, height_ratios=inches, squeeze=False, gridspec_kw={"hspace": 0.02})[:, 0]
    for axis, panel in zip(axes, found, strict=True):
        _draw_bars(axis, panel)
    draw_over_tokens(below, timeline, panels)
    return figure


def memory_bars(estimate: Estimate) -> Bars:
    """Memory of a rank by kind, and what its device has."""
    largest = max(phase.memory.total for leg in estimate.legs for phase in leg.phases)
    unit, scale = _memory_unit(largest)
    bars = []
    for leg, phases in _stretches(estimate, lambda phase: phase.memory):
        memory = phases[0].memory
        capacity = None if leg.machine is None else leg.machine.memory_gigabytes * 1e9
        of = "" if capacity is None else f" of {capacity / scale:,.4g}"
        fits = capacity is None or memory.total <= capacity
        note = f"{memory.total / scale:,.3g}{of} {unit}{'' if fits else ': too much'}\n"
        note += f"host: {_bytes(memory.host)}"
        parts = {kind: getattr(memory, kind) / scale for kind in KINDS}
        mark = None if capacity is None else capacity / scale
        bars.append(Bar(name=_name(leg, phases), parts=parts, mark=mark, note=note, is_fault=not fits))
    title = f"Memory of a rank at the peak of a step, predicted{_on_machines(estimate)} ({unit})"
    return Bars(title=title, mark="capacity", colours=_COLOURS, bars=bars)


def time_bars(estimate: Estimate) -> Bars:
    """A step's time by part, and the published one; no bars where the machine is not known."""
    times = [phase.time for leg in estimate.legs for phase in leg.phases if phase.time]
    longest = max((time.total_seconds for time in times), default=0.0)
    unit, scale = ("s", 1.0) if longest >= 0.1 else ("ms", 1e-3)
    large = {name for time in times for name, seconds in time.seconds.items() if seconds > _SMALL * longest}
    bars = []
    for leg, phases in _stretches(estimate, lambda phase: phase.time and tuple(phase.time.seconds.items())):
        time, published, mfu = phases[0].time, phases[0].published_seconds, phases[0].mfu
        if time is None:
            continue
        parts = dict.fromkeys(_PARTS, 0.0)
        for name, seconds in time.seconds.items():
            parts[name if name in large & _PARTS.keys() else "other"] += seconds / scale
        note = f"{time.total_seconds / scale:.3g} {unit}"
        if mfu is not None:
            note += f", {mfu:.1%} MFU"
        if published is not None:
            note += f"\npublished: {published / scale:.3g} {unit} ({time.total_seconds / published - 1:+.1%})"
        mark = None if published is None else published / scale
        bars.append(Bar(name=_name(leg, phases), parts=parts, mark=mark, note=note))
    title = f"Time of a step, predicted{_on_machines(estimate)} ({unit})"
    return Bars(title=title, mark="published", colours=_PARTS, bars=bars)


def _memory_unit(number: float) -> tuple[str, float]:
    return ("GB", 1e9) if number >= 1e9 else ("MB", 1e6)


def _bytes(number: float) -> str:
    unit, scale = _memory_unit(number)
    return f"{number / scale:,.3g} {unit}"


def _heading(job: TrainJob, timeline: Timeline, estimate: Estimate) -> str:
    parameters, tokens = _count(job.model.num_parameters), _count(timeline.num_tokens)
    said = f"{_shortened(job.run.name)}: {parameters} parameters, {tokens} tokens"
    days, gpu_hours = estimate.days, estimate.gpu_hours
    if days is None or gpu_hours is None:
        return said
    return f"{said}, {duration(days)}" + (f", {_count(gpu_hours)} device-hours" if gpu_hours >= 24 else "")


def _count(number: float) -> str:
    scales = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    return next((f"{number / scale:.3g}{unit}" for scale, unit in scales if number >= scale), f"{number:.3g}")


def _stretches(
    estimate: Estimate, drawn: Callable[[PhaseEstimate], Hashable]
) -> Iterator[tuple[LegEstimate, list[PhaseEstimate]]]:
    for leg in estimate.legs:
        for _, phases in groupby(leg.phases, key=drawn):
            yield leg, list(phases)


def _name(leg: LegEstimate, phases: Sequence[PhaseEstimate]) -> str:
    name = _shortened("-".join(dict.fromkeys((phases[0].name, phases[-1].name))))
    topology = leg.topology
    ranks = "1 rank" if topology.num_ranks == 1 else f"{topology.num_ranks:,} ranks"
    return f"{name}\n{ranks}: {topology.replicate} x {topology.shard} x {topology.tensor}"


def _shortened(name: str) -> str:
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[:half]}...{name[-half:]}"


def _on_machines(estimate: Estimate) -> str:
    names = dict.fromkeys(leg.machine.name for leg in estimate.legs if leg.machine is not None)
    return f", on {' and '.join(names)}" if names else ""


def _draw_bars(axis: Axes, panel: Bars) -> None:
    longest = max(bar.length for bar in panel.bars)
    # What is so far off that the bars would vanish beside it is in the notes alone.
    near = {row: bar.mark for row, bar in enumerate(panel.bars) if bar.mark and bar.mark <= _FAR * longest}
    end = 1.02 * max(longest, *near.values()) if near else 1.02 * longest
    handles = _draw_parts(axis, panel, end)
    if near:
        low, high = [row - 0.42 for row in near], [row + 0.42 for row in near]
        handles.append(axis.vlines(list(near.values()), low, high, color=INK, linewidth=2, label=panel.mark))
    for row, bar in enumerate(panel.bars):
        if bar.is_fault and bar.mark:
            beyond = bar.length - bar.mark
            axis.barh(row, beyond, left=bar.mark, height=_THICK, fill=False, hatch="////", edgecolor=_FAULT)
        colour = _FAULT if bar.is_fault else INK
        axis.text(1.01, row, bar.note, transform=axis.get_yaxis_transform(), fontsize=8, color=colour, va="center")
    axis.set_xlim(0, end)
    axis.set_ylim(len(panel.bars) - 0.5, -0.5)
    axis.set_yticks(range(len(panel.bars)), [bar.name for bar in panel.bars], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=9)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    _head(axis, panel.title, handles)


def _head(axis: Axes, title: str, handles: Sequence[_Handle]) -> None:
    """The title, and the legend below it."""
    entries = [f"{handle.get_label()}     " for handle in handles]
    lines = math.ceil(len("".join(entries)) / _LEGEND_CHARACTERS)
    columns = math.ceil(len(handles) / lines)
    # matplotlib fills a legend by columns
    by_lines = [handle for column in range(columns) for handle in handles[column::columns]]
    axis.legend(
        handles=by_lines, ncols=columns, fontsize=8, frameon=False, borderaxespad=0.2, borderpad=0.2, handlelength=1.1,
        columnspacing=1.2, handletextpad=0.5, loc="lower left", bbox_to_anchor=(0, 1),
    )  # fmt: skip
    axis.set_title(title, loc="left", fontsize=10, pad=8 + 12.5 * lines)


def _draw_parts(axis: Axes, panel: Bars, end: float) -> list[_Handle]:
    """Draw the parts of all bars; returns what the legend shows of those that are anywhere."""
    handles: list[_Handle] = []
    floors = [0.0 for _ in panel.bars]
    for part, colour in panel.colours.items():
        lengths = [bar.parts[part] for bar in panel.bars]
        if any(lengths):
            rows = range(len(lengths))
            drawn = axis.barh(rows, lengths, left=floors, height=_THICK, color=colour, edgecolor="white", linewidth=0.6)
            drawn.set_label(part)
            if max(lengths) >= _VISIBLE * end:
                handles.append(drawn)
        ink = "white" if colour in (_BLUES[0], _ORANGES[0], _GREYS[0]) else INK
        for row, (bar, floor, length) in enumerate(zip(panel.bars, floors, lengths, strict=True)):
            mark = min(max(bar.mark or 0.0, floor), floor + length)  # a number is written on one side of it
            low, high = max((floor, mark), (mark, floor + length), key=lambda piece: piece[1] - piece[0])
            if high - low >= _LABELLED * end:
                axis.text((low + high) / 2, row, f"{length:.3g}", color=ink, fontsize=8, ha="center", va="center")
        floors = [floor + length for floor, length in zip(floors, lengths, strict=True)]
    return handles
