"""The model's rows among the printed ones."""

import copy

import made_up_evaluation as made
import pytest

from nemotron4_eval.report.tables import INTERVAL, NOT_ASKED, model_name, shown_tables


def tables_of(evaluation):
    return {table.published.number: table for table in shown_tables(evaluation, made.benchmarks())}


def own(table, mode=""):
    return next(row for row in table.rows if row.own and row.mode == mode)


@pytest.fixture
def tables(evaluation):
    return tables_of(evaluation)


def with_cell(evaluation, number, column, value, stderr):
    """The evaluation with another cell in its first row of a table."""
    changed = copy.deepcopy(evaluation)
    changed["tables"][str(number)][0]["cells"][column] |= {"value": value, "stderr": stderr}
    return tables_of(changed)[number]


def test_the_model_stands_below_the_printed_rows_of_its_mode(tables):
    assert [(row.model, row.mode) for row in tables[7].rows] == [
        *((name, "0-shot") for name in ("BLOOM 176B", "XGLM 7.5B", "mGPT 13B", "Nemotron-4 15B", "made_up_15b")),
        *((name, "4-shot") for name in ("XGLM 7.5B", "mGPT 13B", "Nemotron-4 15B", "made_up_15b")),
    ]
    assert [row.model for row in tables[3].rows if row.later] == ["Nemotron-4 15B"]
    assert tables[3].rows[-1].later


def test_only_own_cells_have_errors_and_they_are_in_the_unit_of_the_column(tables, evaluation):
    for number, table in tables.items():
        assert all(cell.stderr is None for row in table.rows if not row.own for cell in row.cells.values()), number
    cell, given = own(tables[3]).cells["PIQA"], evaluation["tables"]["3"][0]["cells"]["PIQA"]
    assert (cell.value, cell.stderr) == (pytest.approx(100 * given["value"]), pytest.approx(100 * given["stderr"]))
    bleu = evaluation["tables"]["10"][0]["cells"]["EN"]["value"]
    assert (own(tables[10]).cells["EN"].value, bleu < 1) == (pytest.approx(100 * bleu), True)  # as sacreBLEU prints it


def test_no_mean_over_missing_cells_and_each_says_why(tables, evaluation):
    row = own(tables[6])
    assert (row.cells["AVG"].value, row.cells["AVG"].coverage) == (None, "9 of 11 languages")
    assert row.cells["Julia"].missing == "Julia: its toolchain was not found"
    assert tables[6].missing == {f"{name}: its toolchain was not found": [name] for name in ("Julia", "TS")}
    lying = copy.deepcopy(evaluation)
    lying["tables"]["6"][0]["average"] |= {"value": 0.9, "stderr": 0.1}
    assert own(tables_of(lying)[6]).cells["AVG"].value is None


def test_a_table_that_could_not_run_is_shown_with_its_reason(tables):
    assert {cell.missing for cell in own(tables[8]).cells.values()} == {"TyDiQA-GoldP: not in suite.data (evalsets)"}


def test_what_was_not_asked_for_is_no_missing_cell(evaluation):
    changed = copy.deepcopy(evaluation)
    for row in changed["tables"]["4"]:
        del row["cells"]["MMLU"]
    table = tables_of(changed)[4]
    assert own(table, "direct").cells["MMLU"].missing == NOT_ASKED
    assert table.missing == {}


def test_ways_to_prompt_are_rows_in_which_the_other_columns_are_repeated(tables):
    rows = [row for row in tables[4].rows if row.own]
    assert [row.mode for row in rows] == ["chain of thought", "direct"]
    assert rows[0].cells["MMLU"] == rows[1].cells["MMLU"]
    assert rows[0].cells["BBH"].value > rows[1].cells["BBH"].value
    assert [row.mode for row in tables[5].rows if row.own] == ["strict", "flexible"]


def test_the_average_of_mmlu_is_that_of_its_questions_in_both_rows(tables, evaluation):
    for row in (row for row in tables[11].rows if row.own):
        assert row.cells["AVG"].value == 100 * evaluation["tasks"]["t11_avg"]["value"]
        assert row.cells["AVG"].coverage == "4 of 4 columns"
        assert all(row.cells[column].value is not None for column in tables[11].published.columns)
    assert [row.mode for row in tables[11].rows if row.own] == ["means over subjects", "means over questions"]


@pytest.mark.parametrize(
    ("value", "stderr", "best"),
    [
        (0.900, 0.02, ["made_up_15b"]),  # ahead of Mistral's 83.0 by 3.5 standard errors
        (0.840, 0.02, []),  # ahead, within the error
        (0.820, 0.02, []),  # behind, within the error
        (0.700, 0.02, ["Mistral 7B"]),
        (0.900, None, []),  # an unknown error
        (1.000, 0.0, []),  # two of two items
    ],
)
def test_the_best_is_marked_only_beyond_the_error(evaluation, value, stderr, best):
    assert INTERVAL == 1.96
    table = with_cell(evaluation, 3, "PIQA", value, stderr)
    assert [row.model for row in table.rows if row.cells["PIQA"].best] == best


def test_best_is_found_within_a_mode_and_a_tie_has_none(tables):
    marked = [(row.model, row.mode) for row in tables[7].rows if row.cells["HT"].best]
    assert marked[0] == ("XGLM 7.5B", "0-shot")
    assert not any(row.cells["PIQA"].best for row in tables[3].rows if row.later)
    scala = [row.model for row in tables[6].rows if row.cells["Scala"].best]
    assert scala == ["Starcoder 15B"]  # as printed, whatever the text says


def test_tasks_behind_columns_are_found_by_the_benchmarks(tables):
    found = {task.columns: task for task in tables[3].tasks}
    assert found["ARC-e",].name == "t3_arc-e"
    assert found["ARC-e",].result["shots"] == 0
    assert next(task for task in tables[6].tasks if task.columns == ("Julia",)).result is None


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/demo/latest/export", "demo"), ("/models/nano/", "nano"), ("export", "this model"), ("", "this model")],
)
def test_the_model_is_called_by_the_part_of_its_path_that_tells_runs_apart(path, name):
    assert model_name({"model": path}) == name
