"""The planner beside what was published, as `nemotron4 plan experiment=planner_validation` prints it."""

import pytest
from rich.console import Console

from nemotron4_config.command import command_loaders
from nemotron4_config.interruption import Interruption
from nemotron4_config.main import run_reporting_errors
from nemotron4_train.plan.validation import groups, rows, show_validation


def test_a_constant_is_the_mean_of_its_run():
    table_2 = [row for row in rows() if row.step.source == "nemotron4"]
    assert [row.constant_error for row in table_2] == pytest.approx([0.047, 0.029, -0.068], abs=5e-4)


def test_errors_are_within_the_goals():
    """5% on rows that constants are fitted on, 10% on others."""
    found = groups()
    assert {title: len(group) for title, group in found.items()} == {"fitted": 16, "held out": 30}
    assert max(abs(row.error) for row in found["fitted"]) < 0.05
    assert max(abs(row.error) for row in found["held out"]) < 0.10


def test_every_row_is_printed(capsys):
    show_validation(Console(width=160))
    printed = capsys.readouterr().out
    for row in rows():
        assert any(all(cell in line for cell in row.cells) for line in printed.splitlines()), row.cells
    assert "held out, 30 rows: error " in printed


def run(verb, capsys):
    status = run_reporting_errors(verb, command_loaders()[verb](), ["experiment=planner_validation"], Interruption())
    return status, *capsys.readouterr()


def test_the_experiment_prints_it_and_plans_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, printed, errors = run("plan", capsys)
    assert (status, errors) == (0, "")
    assert "15B, Table 2 of the report" in printed
    assert "Timeline" not in printed
    assert not list(tmp_path.iterdir())


def test_there_is_nothing_to_train(capsys):
    key = "experiment/planner_validation.yaml: plan: unknown key; --help lists the keys"
    assert run("train", capsys) == (2, "", f"nemotron4 train: {key}\n")
