"""Evaluations of several checkpoints: each benchmark's values, and paired differences on the items that two scored.

Invariant: only scores of the same items are subtracted: data, shots, metric, version and start token must agree, or the
difference says what does not.
Source: arXiv 2411.00640 for paired differences.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemotron4_common.rules import require
from nemotron4_eval.report.chart import area_bar
from nemotron4_eval.report.records import verdict
from nemotron4_eval.report.tables import ShownCell, all_benchmarks, model_name, shown_tables
from nemotron4_eval.suites.errors import Difference, Scores, paired_difference
from nemotron4_eval.suites.paper import AVERAGE, AreaPart, load_paper
from nemotron4_eval.suites.suite import Benchmark, Cell

_SAME = ("dataset_digest", "shots", "version", "items")
"""What must agree of a task in two evaluations."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An evaluation and where it lies."""

    directory: Path
    evaluation: Mapping[str, Any]
    benchmarks: Sequence[Benchmark]

    @property
    def label(self) -> str:
        """What tells it from the others of its run."""
        return str(self.evaluation.get("checkpoint") or model_name(self.evaluation))

    @property
    def tokens(self) -> int | None:
        """Trained on; None if eval.json does not say."""
        tokens = self.evaluation.get("trained_tokens")
        return tokens if isinstance(tokens, int) else None

    @cached_property
    def values(self) -> dict[AreaPart, ShownCell]:
        """The benchmarks of the areas whose tables it has."""
        tables = {table.published.number: table for table in shown_tables(self.evaluation, self.benchmarks)}
        return {part: area_bar(tables[part.table], part).own for part in load_paper().areas if part.table in tables}

    def scores(self, task: str, metric: str) -> dict[Any, float]:
        """Scores of a task's items; empty without samples, or if the metric is taken over all items together."""
        samples = self.evaluation["tasks"].get(task, {}).get("samples")
        found: dict[Any, float] = {}
        if samples and (path := self.directory / samples).is_file():
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    record = json.loads(line)
                    if (value := verdict([record], metric)) is not None:
                        found[record["doc_id"]] = value
        return found


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a benchmark from one evaluation to another, in percent or points."""

    difference: float | None
    """None if the two cannot be compared."""
    paired: Difference | None
    """As fractions; None where the metric has no scores of single items, or they were not kept."""
    why_not: str = ""


def read_evaluation(directory: Path, benchmarks: Sequence[Benchmark] | None = None) -> Compared:
    """eval.json of a directory. ValueError if it is no evaluation of benchmarks."""
    path = directory / "eval.json"
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        complete = all(key in evaluation for key in ("tasks", "tables", "missing", "settings"))
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        rule = f"{path.name} cannot be read ({reason}); give directories that nemotron4 eval wrote"
        raise ValueError(f"evaluations ({directory}): {rule}") from error
    rule = "its eval.json is of held-out text, not of benchmarks; run nemotron4 eval suite=paper"
    require(complete, "evaluations", directory, rule)
    return Compared(
        directory=directory, evaluation=evaluation, benchmarks=all_benchmarks() if benchmarks is None else benchmarks
    )


def change(part: AreaPart, first: Compared, second: Compared) -> Change:
    """The second's value of a benchmark minus the first's."""
    before, after = (each.values.get(part) for each in (first, second))
    if before is None or after is None or before.value is None or after.value is None:
        return Change(difference=None, paired=None, why_not="not measured in both")
    cells = _cells(part, first)
    if why := _differ(cells, first, second):
        return Change(difference=None, paired=None, why_not=why)
    scores = [_scores(cells, each) for each in (first, second)]
    if not scores[0] or not scores[1]:
        return Change(difference=after.value - before.value, paired=None)
    paired = paired_difference(scores[0], scores[1])
    return Change(difference=100 * paired.difference, paired=paired)


def _cells(part: AreaPart, compared: Compared) -> list[tuple[Benchmark, Cell]]:
    """The cells behind a benchmark's value: those of its column, or all in an average; of the first way to prompt."""
    found = [
        (benchmark, cell)
        for benchmark in compared.benchmarks
        for cell in benchmark.cells
        if cell.table == part.table
        and (cell.in_average if part.column == AVERAGE else cell.column == part.column)
        and part.mode in (None, cell.mode)
    ]
    return [(benchmark, cell) for benchmark, cell in found if cell.mode == found[0][1].mode]


def _differ(cells: Sequence[tuple[Benchmark, Cell]], first: Compared, second: Compared) -> str:
    """What keeps two evaluations from being compared on these cells; empty if nothing does."""
    starts = [each.evaluation["settings"].get("document_start") for each in (first, second)]
    if starts[0] != starts[1]:
        return f"document_start differs: {starts[0]}, {starts[1]}"
    for _, cell in cells:
        for task in cell.tasks:
            one, other = (each.evaluation["tasks"].get(task, {}) for each in (first, second))
            for key in _SAME:
                if one.get(key) != other.get(key):
                    return f"{key.replace('_', ' ')} of {task} differs"
    return ""


def _scores(cells: Sequence[tuple[Benchmark, Cell]], compared: Compared) -> list[Scores]:
    """Scores by question, a part for each mean that the value is made of; empty if some are not to be had."""
    parts: list[Scores] = []
    for benchmark, cell in cells:
        means: list[dict[Any, float]] = []
        for task in cell.tasks:
            found = compared.scores(task, cell.metric)
            if not found:
                return []
            # Only translations of one question share a name; other tasks number their own items from 0.
            means.append(found if benchmark.shared_items else {(task, item): value for item, value in found.items()})
        over_items = cell.average == "items"
        parts += [{key: value for each in means for key, value in each.items()}] if over_items else means
    return parts
