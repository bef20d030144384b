"""docs/performance.md has what the shipped results say, and says what they do not."""

from collections import Counter

import page
import pytest
from areas import AREAS
from benchmark import Area, Benchmark, Row
from pages import DOCS, ROOT

RESULTS = ROOT / "tools" / "bench" / "results"
BENCHMARKS = [benchmark for area in AREAS for benchmark in area.benchmarks]


def result(processor="Z", commit="c" * 40, **figures):
    return {"machine": {"processor": processor, "cores": 2}, "commit": commit, "date": "2026-01-02", **figures}


def one_area(monkeypatch, *rows, benchmarks=("a", "b"), pictures=None):
    area = Area("Things", tuple(map(Benchmark, benchmarks)), rows, pictures=pictures or {})
    monkeypatch.setattr(page, "AREAS", (area,))


def test_the_page_is_what_the_results_say():
    shipped = (DOCS / "performance.md").read_text(encoding="utf-8")
    rendered = page.filled(shipped, page.read_results(RESULTS), DOCS)
    assert rendered == shipped, "run python tools/bench/suite.py --page, and read what it changed"


def test_areas_are_whole():
    assert max(Counter(each.name for each in BENCHMARKS).values()) == 1
    named = {row.benchmark for area in AREAS for row in area.rows}
    for area in AREAS:
        assert {each.name for each in area.benchmarks} <= {row.benchmark for row in area.rows}, area.title
    programs = {each.program or each.name for each in BENCHMARKS}
    assert [name for name in programs if not (RESULTS.parent / f"{name}.py").exists()] == []
    results = {path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("gpu_")}
    assert results - named == set(), "no row reads them"
    assert named - {each.name for each in BENCHMARKS} <= results, "neither a benchmark nor a result"


def test_what_is_not_measured_is_said(monkeypatch, tmp_path):
    speed = Row(
        "speed", "a", lambda found: f"{found['speed']} m/s", goal="> 3 m/s", met=lambda found: found["speed"] > 3
    )
    size = Row("size", "b", lambda found: f"{found['size']:.1f} m", peer=lambda found: f"{found['peer']} (theirs)")
    one_area(monkeypatch, speed, size)
    text = page.render({}, tmp_path)
    assert "| speed | not run |  | > 3 m/s | `a.json` |" in text
    assert "Goals: 0 of 1 are met, 1 are not measured." in text
    text = page.render({"a": result(), "b": result(size=2)}, tmp_path)
    assert "| speed | not in the file |  | > 3 m/s |" in text
    assert "| size | 2.0 m | not in the file |" in text
    assert "Goals: 0 of 1 are met, 1 are not measured." in text


def test_a_goal_is_met_or_not_with_its_reason(monkeypatch, tmp_path):
    row = Row("speed", "a", value=str, goal="> 3 m/s", met=lambda found: found["speed"] > 3, missed="Uphill.")
    one_area(monkeypatch, row)
    assert "> 3 m/s: met |" in page.render({"a": result(speed=4)}, tmp_path)
    text = page.render({"a": result(speed=2)}, tmp_path)
    assert "> 3 m/s: **not met**. Uphill. |" in text
    assert "Goals: 0 of 1 are met. Not met: speed." in text


def test_a_section_says_where_its_files_were_made(monkeypatch, tmp_path):
    one_area(monkeypatch)
    same = page.render({"a": result(), "b": result()}, tmp_path)
    assert "Measured on Z, 2 cores, commit `cccccccccccc`, 2026-01-02." in same
    text = page.render({"a": result(processor="Y"), "b": result(commit=f"{'d' * 40}-dirty")}, tmp_path)
    assert "- `a.json`: Y, 2 cores, commit `cccccccccccc`, 2026-01-02\n" in text
    assert "- `b.json`: Z, 2 cores, commit `dddddddddddd` with changes, 2026-01-02" in text


def test_what_was_left_out_is_said(monkeypatch, tmp_path):
    one_area(monkeypatch)
    text = page.render({"a": result(left_out={"theirs": "not installed"})}, tmp_path)
    assert "Left out of `a.json`: theirs (not installed)." in text


@pytest.mark.parametrize(("figures", "drawn"), [({"speed": 4}, True), ({}, False)])
def test_a_picture_is_shown_if_it_can_be_drawn(monkeypatch, tmp_path, figures, drawn):
    def draw(results):
        from matplotlib.figure import Figure

        figure = Figure()
        figure.add_subplot().bar(["a"], [results["a"]["speed"]])
        return figure

    one_area(monkeypatch, pictures={"speeds": draw})
    (tmp_path / "performance.md").write_text(f"# P\n\n{page.BEGIN}\n{page.END}\nend\n")
    (tmp_path / "performance_speeds.png").write_text("of earlier results")
    (tmp_path / "a.json").write_text(f"{result(**figures)}".replace("'", '"'))
    page.write_page(tmp_path, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("# P\n")
    assert text.endswith("end\n")
    assert ("![Things](performance_speeds.png)" in text) == drawn
    assert (tmp_path / "performance_speeds.png").exists() == drawn
