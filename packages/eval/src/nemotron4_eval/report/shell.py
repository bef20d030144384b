"""The frame of the report's pages: one self-contained file each, in light and dark, and how text becomes HTML.

Invariants: no page loads anything from elsewhere or runs a script; every text goes through `escape`.
"""

import html
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from nemotron4_common.staging import write_file


def escape(value: object) -> str:
    """Text for HTML, also inside quoted attributes; control characters are made visible."""
    text = html.escape(str(value))
    if text.replace("\n", "").replace("\t", "").isprintable():  # nearly always, and prompts are long
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _visible(c) for c in text)


def _visible(character: str) -> str:
    # Zero-width joiners shape words of Persian and Indic languages; marks of direction could make text look like other.
    return character if character in "\u200c\u200d\u3000\xa0" else f"\\u{ord(character):04x}"


def page(title: str, sections: Iterable[str]) -> str:
    """A complete page; the sections are HTML."""
    # The policy is a second wall behind escaping: whatever text a model wrote, nothing is loaded and no script runs.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<link rel=icon href='data:,'>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def write_page(path: Path, title: str, sections: Iterable[str]) -> None:
    """Write a page, atomically."""
    write_file(path, page(title, sections).encode("utf-8", errors="backslashreplace"))


def definitions(facts: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are; the latter is HTML."""
    return "<dl>" + "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts) + "</dl>"


def scroll(label: str, content: str, card: bool = False) -> str:
    """Content that may be wider than the page: it scrolls by itself, also from the keyboard."""
    inner = f'<div class=scroll role=region tabindex=0 aria-label="{escape(label)}">{content}</div>'
    return f"<div class=card>{inner}</div>" if card else inner


def absent(why: str) -> str:
    """A dash that says why there is no number, to the pointer and to a screen reader."""
    return f'<span class=why title="{escape(why)}">–<span class=hidden>missing: {escape(why)}</span></span>'


def count(number: Any, unit: str) -> str:
    """1 task, 2,000 tasks, 8 T tokens; empty for what is no number."""
    if not isinstance(number, int | float):
        return ""
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {name} {unit}".strip()
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}".strip()


@cache
def _style() -> str:
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
