"""The printed cells: what of them adds up, and whether the benchmarks of this package fill them."""

import pytest

from nemotron4_eval.report.tables import all_benchmarks
from nemotron4_eval.suites.paper import REFERENCE, load_paper

TABLES = load_paper().tables
WEIGHTED_BY = {11: {"Humanities": 4_705, "Social sciences": 3_077, "STEM": 3_153, "Other": 3_107}}


def rows(table):
    return [row for row in table.rows if not row.later]


def test_each_table_has_the_paper_s_model_and_all_its_cells():
    assert sorted(TABLES) == list(range(3, 12))
    for table in TABLES.values():
        ours = [row for row in rows(table) if row.model == REFERENCE]
        assert len(ours) == (2 if table.number == 7 else 1), table.number
        assert all(value is not None for row in ours for value in row.cells.values()), table.number
        assert all(0 <= value <= 100 for row in table.rows for value in row.cells.values() if value is not None)


def test_printed_averages_follow_their_rule_but_those_known_not_to():
    wrong = {}
    for table in TABLES.values():
        for row in rows(table):
            cells = [row.cells[column] for column in table.columns]
            if not table.average or row.cells["AVG"] is None or None in cells:
                continue
            weights = [WEIGHTED_BY.get(table.number, {}).get(column, 1) for column in table.columns]
            mean = sum(w * cell for w, cell in zip(weights, cells, strict=True)) / sum(weights)
            if abs(mean - row.cells["AVG"]) > 0.0501:
                wrong[table.number, row.model] = round(mean, 2)
                assert table.mismatch(row) == pytest.approx(mean)
            else:
                assert table.mismatch(row) is None, (table.number, row.model)
    assert wrong == {
        (6, "Starcoder 15B"): 24.77,
        (6, "Mistral 7B"): 23.52,
        (6, REFERENCE): 24.90,
        (10, "LLaMA-2 13B"): 12.14,
        (11, REFERENCE): 66.35,
    }


def test_marks_modes_and_later_figures_are_kept():
    assert [row.marked for row in rows(TABLES[3]) if row.marked] == [{"SIQA"}]
    bloom = next(row for row in rows(TABLES[7]) if row.model == "BLOOM 176B")
    assert bloom.marked == {"ID", "SW", "TA", "VI", "ZH"}
    assert (bloom.cells["ID"], bloom.cells["ET"], bloom.mode) == (57.5, None, "0-shot")
    assert [row.mode for row in rows(TABLES[9])] == ["native CoT"] + ["English CoT"] * 3
    later = [row for row in TABLES[3].rows if row.later]
    assert [row.cells["ARC-c"] for row in later] == [58.8]
    assert "25" in later[0].mode


def test_areas_are_the_seven_and_name_cells_that_exist():
    areas = load_paper().areas
    assert len({part.area for part in areas}) == 7
    for part in areas:
        printed = [row for row in rows(TABLES[part.table]) if part.mode in (None, row.mode)]
        assert any(row.cells[part.column] is not None for row in printed), part.label


@pytest.mark.parametrize("benchmark", all_benchmarks(), ids=lambda benchmark: benchmark.name)
def test_benchmarks_fill_columns_and_modes_that_the_paper_prints(benchmark):
    for cell in benchmark.cells:
        table = TABLES[cell.table]
        assert cell.column in table.all_columns or not cell.in_average, cell
        modes = {row.mode for row in rows(table)}
        assert modes == {""} or cell.mode in modes, cell
