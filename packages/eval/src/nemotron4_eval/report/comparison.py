"""`nemotron4 eval report`: evaluations of several checkpoints on one page, over the tokens they were trained on.

Invariant: every number of the page is in comparison.json.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nemotron4_common.ownership import check_new_or_ours
from nemotron4_common.rules import require
from nemotron4_common.staging import write_file
from nemotron4_eval.report.curves import Curve, curve
from nemotron4_eval.report.differences import Change, Compared, change, read_evaluation
from nemotron4_eval.report.shell import absent, count, escape, scroll, write_page
from nemotron4_eval.report.tables import INTERVAL
from nemotron4_eval.suites.paper import AreaPart, load_paper
from nemotron4_eval.suites.suite import Benchmark

PAGE_FILE, JSON_FILE = "comparison.html", "comparison.json"


@dataclass(kw_only=True)
class EvalReportJob:
    """Compare evaluations of several checkpoints."""

    evaluations: list[str]
    """Directories that `nemotron4 eval` wrote, two or more. They are put in the order of the tokens trained on, where
    every eval.json says how many; otherwise they stay in the order given."""

    out: str = "comparison"
    """Directory for comparison.html and comparison.json."""

    def __post_init__(self) -> None:
        shown = f"[{', '.join(self.evaluations)}]"
        rule = "must be two or more directories that nemotron4 eval wrote, e.g. evaluations=[runs/a/eval,runs/b/eval]"
        require(len(self.evaluations) >= 2, "evaluations", shown, rule)
        rule = "names a directory twice; leave one of them out"
        require(
            len({Path(name).resolve() for name in self.evaluations}) == len(self.evaluations),
            "evaluations",
            shown,
            rule,
        )
        require(self.out != "", "out", "''", "must name a directory; leave it out for comparison/")


def run_eval_report(job: EvalReportJob) -> None:
    """Write the comparison and print where."""
    check_new_or_ours(Path(job.out), "out", (PAGE_FILE,))
    print(write_comparison(Path(job.out), [Path(name) for name in job.evaluations]))


def write_comparison(out: Path, directories: Sequence[Path], benchmarks: Sequence[Benchmark] | None = None) -> Path:
    """Write comparison.html and comparison.json; returns the first. ValueError if a directory has no evaluation."""
    found = [read_evaluation(directory, benchmarks) for directory in directories]
    if all(each.tokens is not None for each in found):
        found.sort(key=lambda each: each.tokens or 0)
    parts = [part for part in load_paper().areas if any(part in each.values for each in found)]
    changes = {(part, pair): change(part, found[pair[0]], found[pair[1]]) for part in parts for pair in _pairs(found)}
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_as_json(found, parts, changes), indent=1, ensure_ascii=False) + "\n"
    write_file(out / JSON_FILE, content.encode("utf-8", errors="backslashreplace"))
    write_page(out / PAGE_FILE, "nemotron4: evaluations compared", _sections(found, parts, changes))
    return out / PAGE_FILE


Pair = tuple[int, int]
Changes = dict[tuple[AreaPart, Pair], Change]


def _pairs(found: Sequence[Compared]) -> list[Pair]:
    """Neighbours, and the last with the first."""
    pairs = list(pairwise(range(len(found))))
    return pairs if len(found) == 2 else [*pairs, (0, len(found) - 1)]


def _labels(found: Sequence[Compared]) -> list[str]:
    labels = [each.label for each in found]
    return [
        label if labels.count(label) == 1 else str(each.directory) for label, each in zip(labels, found, strict=True)
    ]


def _as_json(found: Sequence[Compared], parts: Sequence[AreaPart], changes: Changes) -> dict[str, Any]:
    labels = _labels(found)
    return {
        "evaluations": [
            {"label": label, "directory": str(each.directory), "trained_tokens": each.tokens}
            for label, each in zip(labels, found, strict=True)
        ],
        "benchmarks": [
            {
                "area": part.area,
                "benchmark": part.label,
                "values": [
                    {"value": cell.value, "stderr": cell.stderr} if (cell := each.values.get(part)) else None
                    for each in found
                ],
                "changes": [
                    {"from": labels[one], "to": labels[other], **_change_json(changes[part, (one, other)])}
                    for one, other in _pairs(found)
                ],
            }
            for part in parts
        ],
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "difference": change.difference,
        "paired": None if change.paired is None else asdict(change.paired),
        "why_not": change.why_not,
    }


def _sections(found: Sequence[Compared], parts: Sequence[AreaPart], changes: Changes) -> Iterator[str]:
    labels = _labels(found)
    yield f"<header><p class=kind>Evaluations compared</p><h1>{escape(labels[0])} to {escape(labels[-1])}</h1>"
    size = f"{count(len(found), 'checkpoints')}, {count(len(parts), 'benchmarks')} of the seven areas"
    yield f"<p class=lead>{size}</p></header>"
    yield "<h2>Over training</h2>"
    axis = "tokens trained on" if found[0].tokens is not None and found[-1].tokens is not None else "the order given"
    yield f"<p class=lead>In percent (FLORES in points), over {axis}; upright lines are 95 % intervals.</p>"
    yield f"<div class=curves>{''.join(curve(_curve(found, labels, part)) for part in parts)}</div>"
    yield "<h2>Values</h2>"
    yield f"<div class=card>{_values(found, labels, parts)}</div>"
    yield "<h2>Differences</h2>"
    yield (
        "<p class=lead>On the items that both scored, ± the standard error of the paired difference; below, how many"
        f" items became right and how many wrong. Bold: beyond {INTERVAL} standard errors.</p>"
    )
    yield f"<div class=card>{_differences(found, labels, parts, changes)}</div>"


def _curve(found: Sequence[Compared], labels: Sequence[str], part: AreaPart) -> Curve:
    known = all(each.tokens is not None for each in found)
    points = [
        (float(each.tokens or 0) if known else float(index), cell.value, cell.stderr, label)
        for index, (each, label) in enumerate(zip(found, labels, strict=True), 1)
        if (cell := each.values.get(part)) is not None and cell.value is not None
    ]
    why = next((cell.missing for each in reversed(found) if (cell := each.values.get(part)) is not None), "")
    return Curve(title=part.label, area=part.area, points=tuple(points), in_tokens=known, missing=why)


def _values(found: Sequence[Compared], labels: Sequence[str], parts: Sequence[AreaPart]) -> str:
    rows = []
    for part in parts:
        cells = []
        for each in found:
            cell = each.values.get(part)
            if cell is None or cell.value is None:
                why = "not in its suite" if cell is None else ", ".join(filter(None, (cell.missing, cell.coverage)))
                cells.append(f"<td>{absent(why)}")
            else:
                error = "" if cell.stderr is None else f"<small>± {cell.stderr:.1f}</small>"
                cells.append(f"<td>{cell.value:.1f}{error}")
        rows.append(f"<tr><th scope=row>{escape(part.label)}{''.join(cells)}</tr>")
    heads = "".join(
        f"<th scope=col>{escape(label)}<small>{count(each.tokens, 'tokens')}</small>"
        for label, each in zip(labels, found, strict=True)
    )
    return scroll(
        "Values", f"<table class=scores><thead><tr><th scope=col>benchmark{heads}</thead>{''.join(rows)}</table>"
    )


def _differences(found: Sequence[Compared], labels: Sequence[str], parts: Sequence[AreaPart], changes: Changes) -> str:
    pairs = _pairs(found)
    heads = "".join(f"<th scope=col>{escape(labels[one])}<br>to {escape(labels[other])}" for one, other in pairs)
    rows = [
        f"<tr><th scope=row>{escape(part.label)}{''.join(_difference(changes[part, pair]) for pair in pairs)}</tr>"
        for part in parts
    ]
    table = f"<table class=scores><thead><tr><th scope=col>benchmark{heads}</thead>{''.join(rows)}</table>"
    return scroll("Differences", table)


def _difference(change: Change) -> str:
    if change.difference is None:
        return f"<td>{absent(change.why_not)}"
    shown, paired = f"{change.difference:+.1f}", change.paired
    if paired is None:
        return f"<td>{shown}<small>no scores of items</small>"
    error = "" if paired.stderr is None else f" ± {100 * paired.stderr:.1f}"
    beyond = paired.stderr is not None and abs(paired.difference) > INTERVAL * paired.stderr
    flips = f"+{paired.gained:,} −{paired.lost:,} of {paired.items:,}"
    return f"<td{' class=best' if beyond else ''}>{shown}{error}<small>{flips}</small>"
