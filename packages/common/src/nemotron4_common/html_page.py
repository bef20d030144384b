"""HTML that all reports share: one self-contained page, its style, tables, and escaping of text."""

from __future__ import annotations

import html
from collections.abc import Iterable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
p.lead { color: #555; margin-top: .25rem; } img, svg { width: 100%; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; }
details { margin: .5rem 0; } summary { cursor: pointer; }
.bar { display: flex; width: 14rem; height: .8rem; background: #eef1f4; } .bar i { display: block; height: 100%; }
blockquote { margin: .4rem 0; padding: .3rem .8rem; border-left: 3px solid #d1701f; background: #faf7f4; }
blockquote p { margin: 0; overflow-wrap: anywhere; } blockquote small { color: #777; overflow-wrap: anywhere; }
"""


class Markup(str):
    """Text that is already HTML; all other text is escaped."""

    __slots__ = ()


def page(title: str, sections: Iterable[str]) -> str:
    """A complete page; the sections are HTML."""
    body = "\n".join(sections)
    return f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>\n{body}\n"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the first column is aligned left, the others right."""
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def details(summary: str, content: str) -> str:
    """A section that unfolds when its summary is clicked; `content` is HTML."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def bar(shares: Iterable[tuple[float, str]]) -> Markup:
    """A bar made of parts, each given as (share of the bar's length, CSS colour)."""
    parts = "".join(f"<i style='width:{100 * share:.2f}%;background:{colour}'></i>" for share, colour in shares)
    return Markup(f"<div class=bar>{parts}</div>")


def _safe(cell: str) -> str:
    return cell if isinstance(cell, Markup) else html.escape(cell)
