"""Rows of the paper's tables from what tasks came to."""

from math import sqrt

import pytest

from nemotron4_eval.evaluation import _objective
from nemotron4_eval.harness.run import TaskRun
from nemotron4_eval.suites.cells import AVERAGE, table_rows
from nemotron4_eval.suites.errors import clustered_stderr
from nemotron4_eval.suites.paper import load_paper
from nemotron4_eval.suites.suite import Benchmark, Cell, benchmark_names, load_benchmark

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def run_of(scores, metric="acc"):
    items = len(scores)
    mean = sum(scores) / items
    stderr = sqrt(sum((score - mean) ** 2 for score in scores) / (items - 1) / items)
    name, _, filter_name = metric.partition(",")
    samples = [{"doc_id": i, "filter": filter_name or "none", name: score} for i, score in enumerate(scores)]
    # The harness writes one record an item for each filter.
    samples += [{"doc_id": i, "filter": "other", name: 1 - score} for i, score in enumerate(scores)]
    return TaskRun(metrics={metric: mean}, stderrs={metric: stderr}, items=items, version="1", samples=samples)


def benchmark(*cells, **options):
    return Benchmark(name="b", title="B", area="a", tasks=(), cells=cells, **options)


def test_a_row_has_an_average_only_if_every_cell_has_a_value():
    cells = [Cell(table=7, column=name.upper(), tasks=(name,), metric="acc") for name in ("et", "ht")]
    runs = {"et": run_of([1, 0, 1, 1])}
    missing = [{"task": "ht", "tables": [7], "kind": "data", "message": "no items", "command": "get them"}]
    [row] = table_rows([benchmark(*cells)], runs, missing)["7"]
    assert row["coverage"] == "1 of 2 languages"
    assert row["average"] == {"value": None, "stderr": None, "items": 0, "missing": "1 of 2 languages"}
    assert (row["cells"]["ET"]["value"], row["cells"]["ET"]["items"]) == (0.75, 4)
    assert row["cells"]["HT"]["missing"] == "no items"
    [row] = table_rows([benchmark(*cells)], runs | {"ht": run_of([0, 0, 1, 0])}, [])["7"]
    assert (row["coverage"], row["average"]["value"], row["average"]["items"]) == ("2 of 2 languages", 0.5, 8)
    assert row["average"]["stderr"] == pytest.approx(sqrt(2 * row["cells"]["ET"]["stderr"] ** 2) / 2)


def test_a_cell_over_tasks_is_their_mean_or_that_of_their_items():
    runs = {"a": run_of([1, 1]), "b": run_of([0, 0, 0, 1, 0, 0])}
    cells = [
        Cell(table=4, column="tasks", tasks=("a", "b"), metric="acc"),
        Cell(table=4, column="items", tasks=("a", "b"), metric="acc", average="items"),
    ]
    [row] = table_rows([benchmark(*cells)], runs, [])["4"]
    assert row["cells"]["tasks"]["value"] == pytest.approx((1 + 1 / 6) / 2)
    assert row["cells"]["items"]["value"] == pytest.approx(3 / 8)
    assert row["cells"]["items"]["stderr"] == pytest.approx(runs["b"].stderrs["acc"] * 6 / 8)
    [row] = table_rows([benchmark(*cells)], {"a": runs["a"]}, [])["4"]
    assert row["cells"]["tasks"]["missing"] == "1 of 2 tasks: b was not run"


def test_a_cell_without_a_mode_stands_in_every_row_and_a_cell_avg_is_the_average():
    runs = {"a": run_of([1, 0]), "b": run_of([1, 1]), "c": run_of([0, 0])}
    cells = [
        Cell(table=11, column="STEM", tasks=("a",), metric="acc", mode="subjects"),
        Cell(table=11, column="STEM", tasks=("b",), metric="acc", mode="questions"),
        Cell(table=11, column="Other", tasks=("c",), metric="acc"),
        Cell(table=11, column="AVG", tasks=("a", "b", "c"), metric="acc", average="items"),
    ]
    rows = table_rows([benchmark(*cells)], runs, [])["11"]
    assert [(row["mode"], row["cells"]["STEM"]["value"]) for row in rows] == [("subjects", 0.5), ("questions", 1.0)]
    for row in rows:
        assert list(row["cells"]) == ["STEM", "Other"]
        assert row["average"]["value"] == 0.5


def test_languages_that_share_questions_have_a_clustered_error():
    scores = {"et": [1, 0, 1, 1, 0], "ht": [1, 0, 1, 0, 0]}
    metric = "exact_match,strict"
    cells = [Cell(table=9, column=name, tasks=(name,), metric=metric) for name in scores]
    runs = {name: run_of(each, metric) for name, each in scores.items()}
    [row] = table_rows([benchmark(*cells, shared_items=True)], runs, [])["9"]
    assert row["average"]["stderr"] == pytest.approx(
        clustered_stderr([dict(enumerate(each)) for each in scores.values()])
    )
    [apart] = table_rows([benchmark(*cells)], runs, [])["9"]
    assert row["average"]["stderr"] > apart["average"]["stderr"] * 1.1


def test_the_error_of_a_mean_of_corpus_scores_of_the_same_lines_is_the_most_that_it_can_be():
    samples = [{"doc_id": i, "filter": "none", "spbleu": ["Une ligne.", "La ligne."]} for i in range(4)]
    runs = {
        name: TaskRun(metrics={"spbleu": 0.3}, stderrs={"spbleu": error}, items=4, version="1", samples=samples)
        for name, error in (("fr", 0.02), ("de", 0.01))
    }
    cells = [Cell(table=10, column=name, tasks=(name,), metric="spbleu") for name in runs]
    [row] = table_rows([benchmark(*cells, shared_items=True)], runs, [])["10"]
    assert row["average"]["stderr"] == pytest.approx(0.015)
    assert load_benchmark("flores").shared_items


def test_tasks_of_the_benchmarks_have_names_of_their_own_and_fill_the_paper_s_tables():
    found = [load_benchmark(name) for name in benchmark_names()]
    names = [spec.name for each in found for spec in each.tasks]
    assert len(names) == len(set(names))
    assert {cell.table for each in found for cell in each.cells} == set(range(3, 12))
    assert {task for each in found for cell in each.cells for task in cell.tasks} <= set(names)


def test_a_row_has_an_average_where_the_paper_s_table_has_one():
    cells = [cell for name in benchmark_names() for cell in load_benchmark(name).cells]
    averaged = {cell.table for cell in cells if cell.in_average or cell.column == AVERAGE}
    assert averaged == {number for number, table in load_paper().tables.items() if table.average}


def test_a_sweep_is_told_the_first_average_or_else_the_first_cell():
    cells = [Cell(table=5, column=name, tasks=(name,), metric="acc", in_average=False) for name in "ab"]
    runs = {"a": run_of([1, 0, 0, 0]), "b": run_of([1, 1]), "c": run_of([1, 1, 0, 0])}
    assert _objective({"tables": table_rows([benchmark(*cells)], runs, [])}) == 0.25
    whole = Cell(table=6, column="c", tasks=("c",), metric="acc")
    assert _objective({"tables": table_rows([benchmark(whole)], runs, [])}) == 0.5
    lacking = Cell(table=6, column="d", tasks=("d",), metric="acc")
    assert _objective({"tables": table_rows([benchmark(whole, lacking)], runs, [])}) is None
