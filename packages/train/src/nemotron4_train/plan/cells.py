"""Tables as rows of text, for the terminal and for Markdown, and amounts and durations in three digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str | None = None

    def rich(self) -> Table:
        """For the terminal."""
        table = folding_table(*self.header, title=self.title, caption=self.caption)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page, without title and caption."""
        lines = (self.header, ["---"] * len(self.header), *self.rows)
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def folding_table(*header: str, title: str | None = None, caption: str | None = None) -> Table:
    """A table that in a narrow terminal breaks its cells and cuts none."""
    from rich.table import Column, Table

    return Table(*(Column(name, overflow="fold") for name in header), title=title, caption=caption)


def short(amount: float) -> str:
    """15.6B for 15_628_775_424; thousands of trillions stay in T."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if amount >= 0.9995 * scale:
            digits = ",.0f" if amount >= 999.5 * scale else ".3g"
            return f"{amount / scale:{digits}}{unit}"
    return f"{amount:.3g}"


def duration(days: float) -> str:
    """18.1 days, 22.8 h, 3.86 min or 1.31 s."""
    scales = ((1.0, "days"), (24.0, "h"), (1440.0, "min"), (86_400.0, "s"))
    scale, unit = next((each for each in scales if days * each[0] >= 1), scales[-1])
    return f"{days * scale:.3g} {unit}" if days * scale < 100 else f"{days * scale:,.0f} {unit}"
