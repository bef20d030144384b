"""Every benchmark runs at toy size, and the page reads a figure from what it writes."""

from functools import partial

import inputs
import page
import pytest
import suite
from areas import AREAS
from toy_runs import status_of_fork
from verb import nemotron4

SLOW = ("growth_ranks",)  # whose ranks are processes of their own; nox -s e2e runs it
OF_AREAS = [
    pytest.param(area, benchmark, id=benchmark.name, marks=[pytest.mark.slow] * (benchmark.name in SLOW))
    for area in AREAS
    for benchmark in area.benchmarks
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return inputs.Inputs(toy=True, directory=tmp_path_factory.mktemp("toys"))


@pytest.mark.parametrize(("area", "benchmark"), OF_AREAS)
def test_a_toy_run_has_figures(area, benchmark, toys, monkeypatch):
    if lacking := suite.missing_packages(benchmark):
        pytest.skip(f"needs {', '.join(lacking)}")
    monkeypatch.setattr(suite, "_status", status_of_fork)
    monkeypatch.setattr(inputs, "nemotron4", partial(nemotron4, cwd=inputs.ROOT))
    result = suite.run(benchmark, toys, toy=True, output=toys.directory / f"{benchmark.name}.json")
    lines = [page.line(row, result) for row in area.rows if row.benchmark == benchmark.name]
    assert any(page.NOT_IN_FILE not in line for line in lines), lines
    assert {"machine", "versions", "commit", "date"} <= result.keys()
