"""The seven areas as bars with error lines, in inline SVG; the numbers stand beside them.

Invariant: a benchmark without a value has its reason in place of a bar, never a bar of length zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemotron4_eval.report.shell import escape
from nemotron4_eval.report.tables import INTERVAL, ShownCell, ShownTable
from nemotron4_eval.suites.paper import AVERAGE, REFERENCE, AreaPart, PublishedTable, load_paper


@dataclass(frozen=True, kw_only=True)
class AreaBar:
    """A benchmark of an area, in percent or points."""

    part: AreaPart
    own: ShownCell
    reference: float | None
    """The paper's own model."""
    others: tuple[float, ...]
    """Its other rows."""
    chance: float | None


def area_bars(tables: Sequence[ShownTable]) -> list[AreaBar]:
    """The bars of the areas whose tables are shown."""
    by_number = {table.published.number: table for table in tables}
    return [area_bar(by_number[part.table], part) for part in load_paper().areas if part.table in by_number]


def area_bar(table: ShownTable, part: AreaPart) -> AreaBar:
    """A bar: the first of the model's rows of that mode that has a value, or why there is none."""
    rows = [row for row in table.rows if not row.later]
    own = [row.cells[part.column] for row in rows if row.own and part.column in row.cells and _is(row.mode, part.mode)]
    if part.mode and not own:  # a table that measured one mode and does not name it
        own = [row.cells[part.column] for row in rows if row.own and part.column in row.cells and not row.mode]
    printed = [
        (row.model, value)
        for row in rows
        if not row.own and _is(row.mode, part.mode) and (value := row.cells[part.column].value) is not None
    ]
    return AreaBar(
        part=part,
        own=next((cell for cell in own if cell.value is not None), own[0] if own else ShownCell(value=None)),
        reference=next((value for model, value in printed if model == REFERENCE), None),
        others=tuple(value for model, value in printed if model != REFERENCE),
        chance=_chance(table.published, part.column),
    )


def _is(mode: str, wanted: str | None) -> bool:
    return wanted is None or mode == wanted


def _chance(table: PublishedTable, column: str) -> float | None:
    if column != AVERAGE:
        return table.chance.get(column)
    return sum(table.chance.values()) / len(table.columns) if len(table.chance) == len(table.columns) else None


def chart(bars: Sequence[AreaBar], model: str) -> str:
    """The bars with their legend, as HTML."""
    cells: list[str] = []
    last = ""
    for bar in bars:
        starts = bar.part.area != last
        cells.append(_row(bar, model, starts))
        last = bar.part.area
    axis = "".join(f"<text class=axis x='{x}%' y=12 text-anchor=middle>{x}</text>" for x in (0, 25, 50, 75, 100))
    cells.append(
        f"<div class=area></div><div class=label></div><svg aria-hidden=true>{axis}</svg><div class=value></div>"
    )
    return f"{_legend(model)}<div class=chart>{''.join(cells)}</div>"


def _row(bar: AreaBar, model: str, starts: bool) -> str:
    classes = "part starts" if starts else "part"
    first = "starts" if starts else ""
    area = bar.part.area if starts else ""
    head = f"<div class='area {first}'>{escape(area)}</div><div class='label {classes}'>{escape(bar.part.label)}</div>"
    if bar.own.value is None:
        why = ", ".join(filter(None, (bar.own.missing or "not measured", bar.own.coverage)))
        return f"{head}<div class='absent {classes}'>– {escape(why)}</div>"
    error = "" if bar.own.stderr is None else f" <small>&nbsp;± {bar.own.stderr:.1f}</small>"
    value = f"<div class='value {classes}'>{bar.own.value:.1f}{error}</div>"
    return f"{head}<div class='{classes}'>{_bar_svg(bar, model)}</div>{value}"


def _bar_svg(bar: AreaBar, model: str) -> str:
    assert bar.own.value is not None
    value, said = bar.own.value, [f"{bar.part.label}: {model} {bar.own.value:.1f}"]
    marks = [f"<line class=grid x1='{x}%' x2='{x}%' y1=0 y2=100% />" for x in (0, 25, 50, 75, 100)]
    marks.append(f"<rect class=own-bar y=8 height=12 width='{_clipped(value):.2f}%' />")
    if bar.chance is not None:
        marks.append(f"<line class=chance x1='{bar.chance:.2f}%' x2='{bar.chance:.2f}%' y1=3 y2=25 />")
        said.append(f"chance {bar.chance:.0f}")
    marks += [f"<circle class=other cx='{_clipped(other):.2f}%' cy=14 r=3 />" for other in bar.others]
    if bar.reference is not None:
        marks.append(
            f"<svg x='{_clipped(bar.reference):.2f}%' y=14><path class=reference d='M0-6 5 0 0 6-5 0z'/></svg>"
        )
        said.append(f"{REFERENCE} {bar.reference:.1f}")
    if bar.own.stderr is not None:
        low, high = (_clipped(value + sign * INTERVAL * bar.own.stderr) for sign in (-1, 1))
        said.insert(1, f"95 % interval {low:.1f} to {high:.1f}")
        marks.append(f"<line class=error x1='{low:.2f}%' x2='{high:.2f}%' y1=14 y2=14 />")
        marks += [f"<line class=error x1='{end:.2f}%' x2='{end:.2f}%' y1=10 y2=18 />" for end in (low, high)]
    return f'<svg role=img aria-label="{escape("; ".join(said))}">{"".join(marks)}</svg>'


def _clipped(value: float) -> float:
    return min(100.0, max(0.0, value))


def _legend(model: str) -> str:
    entries: Iterable[tuple[str, str]] = (
        ("<rect class=own-bar y=2 width='100%' height=10 />", model),
        (
            "<line class=error x1=0 x2='100%' y1=7 y2=7 /><line class=error x1=0 x2=0 y1=3 y2=11 />"
            "<line class=error x1='100%' x2='100%' y1=3 y2=11 />",
            "its 95 % interval",
        ),
        ("<svg x='50%' y=7><path class=reference d='M0-6 5 0 0 6-5 0z'/></svg>", f"{REFERENCE}, as printed"),
        ("<circle class=other cx='50%' cy=7 r=3 />", "other printed rows"),
        ("<line class=chance x1='50%' x2='50%' y1=0 y2=14 />", "chance"),
    )
    items = "".join(f"<li><svg aria-hidden=true>{mark}</svg>{escape(text)}</li>" for mark, text in entries)
    return f"<ul class=legend>{items}</ul>"
