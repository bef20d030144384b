"""The part of docs/performance.md that `nox -s bench` writes, from the results alone.

Invariant: a figure on the page is read from one file, which stands in its row; where there is no file, or the file has
no such figure, the row says so; and each section says on which machine, at which commit and when its files were made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from areas import AREAS
from benchmark import Area, Result, Row

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
NOT_RUN = "not run"
NOT_IN_FILE = "not in the file"
"""The file was written by an older program, or without what this figure needs."""


def write_page(results: Path, docs: Path = DOCS) -> None:
    """Draw the page's pictures, and fill its tables."""
    found = read_results(results)
    for area in AREAS:
        _draw(area, found, docs)
    page, making = docs / "performance.md", docs / "performance.md.making"
    making.write_text(filled(page.read_text(encoding="utf-8"), found, docs), encoding="utf-8")
    making.replace(page)


def read_results(directory: Path) -> dict[str, Result]:
    """By benchmark."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}


def filled(text: str, results: Mapping[str, Result], docs: Path) -> str:
    """The page's text with the part between the marks renewed."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{render(results, docs)}\n\n{END}{rest.split(END)[1]}"


def render(results: Mapping[str, Result], docs: Path) -> str:
    """The text between the marks; pictures are those in `docs`."""
    return "\n\n".join((_goals(results), *(_section(area, results, docs) for area in AREAS)))


def _goals(results: Mapping[str, Result]) -> str:
    """How many goals are met, and which are not."""
    rows = [row for area in AREAS for row in area.rows if row.met is not None]
    states = [_is_met(row, results.get(row.benchmark)) for row in rows]
    counts = f"Goals: {states.count(True)} of {len(rows)} are met"
    if None in states:
        counts += f", {states.count(None)} are not measured"
    missed = "; ".join(row.what for row, is_met in zip(rows, states, strict=True) if is_met is False)
    return f"{counts}. Not met: {missed}." if missed else f"{counts}."


def _section(area: Area, results: Mapping[str, Result], docs: Path) -> str:
    names = dict.fromkeys((*(each.name for each in area.benchmarks), *(row.benchmark for row in area.rows)))
    own = {name: results[name] for name in names if name in results}
    pictures = [_picture(name) for name in area.pictures]
    parts = [f"### {area.title}", area.text, _origins(own), _table(area.rows, results), _left_out(own)]
    parts += [f"![{area.title}]({picture})" for picture in pictures if (docs / picture).exists()]
    return "\n\n".join(part for part in parts if part)


def _picture(name: str) -> str:
    return f"performance_{name}.png"


def _draw(area: Area, results: Mapping[str, Result], docs: Path) -> None:
    """A picture that cannot be drawn from the results is no longer there, and a line says so."""
    own = {each.name: results[each.name] for each in area.benchmarks if each.name in results}
    for name, draw in area.pictures.items():
        path = docs / _picture(name)
        try:
            figure = draw(own)
        except LookupError as error:
            print(f"{path.name}: not drawn, the results lack {error}", file=sys.stderr)
            path.unlink(missing_ok=True)
        else:
            figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})


def _origins(results: Mapping[str, Result]) -> str:
    """Where files were made: in one line if it is the same for all, else a line a place."""
    files: dict[str, list[str]] = {}
    for name, result in results.items():
        files.setdefault(_origin(result), []).append(f"`{name}.json`")
    if len(files) == 1:
        return f"Measured on {next(iter(files))}."
    return "\n".join(f"- {', '.join(names)}: {origin}" for origin, names in files.items())


def _origin(result: Result) -> str:
    machine, commit = result["machine"], result["commit"]
    hash_, _, dirty = commit.partition("-")
    busy, cores = machine.get("busy_cores_before", 0), machine["cores"]
    return ", ".join(
        (
            machine["processor"],
            f"{cores} cores" + (f" of which others used {busy}" if busy > cores / 10 else ""),
            f"commit `{hash_[:12]}`" + (" with changes" if dirty else ""),
            result.get("date", "not dated"),
        )
    )


def _left_out(results: Mapping[str, Result]) -> str:
    lines = [
        f"Left out of `{name}.json`: {other} ({reason})."
        for name, result in results.items()
        for other, reason in result.get("left_out", {}).items()
    ]
    return " ".join(lines)


def _table(rows: Sequence[Row], results: Mapping[str, Result]) -> str:
    lines = ["| what | measured | beside it | goal | file |", "| --- | --- | --- | --- | --- |"]
    lines += [line(row, results.get(row.benchmark)) for row in rows]
    return "\n".join(lines) if rows else ""


def line(row: Row, result: Result | None) -> str:
    """A row of a table."""
    measured, peer, goal = _read(row.value, result), "", row.goal
    if row.peer and measured not in (NOT_RUN, NOT_IN_FILE):
        peer = _read(row.peer, result)
    if (met := _is_met(row, result)) is not None:
        goal += ": met" if met else f": **not met**. {row.missed}".rstrip()
    return f"| {row.what} | {measured} | {peer} | {goal} | `{row.benchmark}.json` |"


def _read(value: Callable[[Result], str], result: Result | None) -> str:
    if result is None:
        return NOT_RUN
    try:
        return value(result)
    except (LookupError, TypeError):  # TypeError: another kind of value stands there
        return NOT_IN_FILE


def _is_met(row: Row, result: Result | None) -> bool | None:
    """None without a goal or a figure."""
    if row.met is None or result is None:
        return None
    try:
        return row.met(result)
    except (LookupError, TypeError):
        return None
