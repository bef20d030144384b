"""A benchmark's values over training, in inline SVG.

Invariant: a checkpoint without a value has no point.
"""

from dataclasses import dataclass

from nemotron4_eval.report.shell import count, escape
from nemotron4_eval.report.tables import INTERVAL

WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 308, 10, 126


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A panel."""

    title: str
    area: str
    points: tuple[tuple[float, float, float | None, str], ...]
    """Place, value, standard error, label."""
    in_tokens: bool
    """Whether places are tokens; otherwise 1, 2, 3, ..."""
    missing: str = ""
    """Why there are no points."""


def curve(curve: Curve) -> str:
    """The panel as HTML."""
    head = f"<h3>{escape(curve.title)}</h3><p class=metric>{escape(curve.area)}</p>"
    if not curve.points:
        return f"<section class=card>{head}<p class=metric>– {escape(curve.missing or 'not measured')}</p></section>"
    spans = [(value - _error(error), value + _error(error)) for _, value, error, _ in curve.points]
    low, high = _round_range(min(span[0] for span in spans), max(span[1] for span in spans))
    places = [place for place, *_ in curve.points]
    first, last = min(places), max(places)

    def x(place: float) -> float:
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * ((place - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    marks = []
    for tick in (low, (low + high) / 2, high):
        marks.append(f"<line class=grid x1={_LEFT} x2={_RIGHT} y1={y(tick):.1f} y2={y(tick):.1f} />")
        marks.append(f"<text class=axis x={_LEFT - 5} y={y(tick) + 4:.1f} text-anchor=end>{tick:g}</text>")
    for place in dict.fromkeys((first, last)):
        text = count(int(place), "") if curve.in_tokens else f"{place:.0f}"
        marks.append(f"<text class=axis x={x(place):.1f} y={HEIGHT - 8} text-anchor=middle>{text}</text>")
    line = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value, *_ in curve.points)
    marks.append(f"<polyline class=line points='{line}' />")
    for place, value, error, _ in curve.points:
        ends = [y(value + sign * _error(error)) for sign in (-1, 1)]
        marks.append(f"<line class=error x1={x(place):.1f} x2={x(place):.1f} y1={ends[0]:.1f} y2={ends[1]:.1f} />")
        marks.append(f"<circle class=point cx={x(place):.1f} cy={y(value):.1f} r=3.5 />")
    said = "; ".join(f"{label}: {value:.1f}" for _, value, _, label in curve.points)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(curve.title)}: {escape(said)}">'
    return f"<section class=card>{head}{svg}{''.join(marks)}</svg></section>"


def _error(stderr: float | None) -> float:
    return 0.0 if stderr is None else INTERVAL * stderr


def _round_range(low: float, high: float) -> tuple[float, float]:
    """The range in multiples of the smallest of 1, 2, 5, 10, 20, 50 of which three cover it."""
    step = next((size for size in (1, 2, 5, 10, 20) if high - low <= 3 * size), 50)
    bottom = step * (low // step)
    return bottom, max(bottom + step, step * -(-high // step))
