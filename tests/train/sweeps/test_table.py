"""sweep.csv, the table and the pictures of a sweep; a run that is complete already."""

import csv
from dataclasses import dataclass

import pytest
from smoke import smoke_job

from nemotron4_train.job import LauncherConfig, RunConfig
from nemotron4_train.launching import launch as launch_module
from nemotron4_train.launching.launch import launch
from nemotron4_train.run_directory import RunRecord, read_record, write_record
from nemotron4_train.sweeps.plots import Scale, key_figure, parallel_figure
from nemotron4_train.sweeps.table import summarise

pytestmark = pytest.mark.timeout(120)


@dataclass
class Row:
    number: int
    overrides: list[str]
    objective: float | None = None
    state: str = "complete"
    error: str | None = None
    seconds: float | None = 1.25
    run_dir: str = "runs/a"


def test_the_table_and_a_picture_for_each_key_that_varied(tmp_path, capsys):
    rows = [
        Row(0, ["seed=1", "model=nano_1m", "optimizer.lr=1e-3"], 2.5),
        Row(1, ["seed=1", "model=nano_3m", "optimizer.lr=1e-3"], 2.25),
        Row(2, ["seed=1", "model=nano_3m", "optimizer.lr=-1"], None, "failed", "optimizer.lr (-1.0): [no]", None, ""),
    ]
    summarise(tmp_path, rows, False)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]
    assert capsys.readouterr().err == ""
    with open(tmp_path / "sweep.csv", newline="") as file:
        header, *lines = csv.reader(file)
    keys = ["seed", "model", "optimizer.lr"]
    assert header == ["job", *keys, "objective", "state", "seconds", "run_dir", "error"]
    assert lines[1] == ["1", "1", "nano_3m", "1e-3", "2.250000", "complete", "1.2", "runs/a", ""]
    assert lines[2] == ["2", "1", "nano_3m", "-1", "", "failed", "", "", "optimizer.lr (-1.0): [no]"]
    summarise(tmp_path, rows, True)
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"sweep-model.png", "sweep-optimizer.lr.png", "sweep-parallel.png"}
    shown = capsys.readouterr().err
    assert "[no]" in shown
    assert "seed" not in shown


def test_numbers_lie_on_an_axis_and_names_are_places():
    log, linear, names = Scale.of(["1e-2", "1e-4", "1e-3"]), Scale.of(["0", "5", "20"]), Scale.of(["b", "a", "c"])
    assert [log.place(value) for value in log.values] == pytest.approx([0, 0.5, 1])
    assert linear.place("5") == 0.25
    assert [names.place(value) for value in ("b", "a", "c")] == [0, 0.5, 1]
    assert not Scale.of(["1", "10"]).log
    assert Scale.of(["1"]).place("1") == 0.5


def test_jobs_that_differ_in_nothing_else_are_joined():
    settings = [{"lr": lr, "model": model} for model in ("a", "b") for lr in ("1e-2", "1e-4")]
    axis = key_figure("lr", settings, [1.0, 2.0, 3.0, 4.0]).axes[0]
    assert axis.get_xscale() == "log"
    assert [line.get_label() for line in axis.lines] == ["model=a", "model=b"]
    assert [list(line.get_xdata()) for line in axis.lines] == [[1e-4, 1e-2]] * 2
    places = key_figure("model", settings, [1.0, 2.0, 3.0, 4.0]).axes[0]
    assert [label.get_text() for label in places.get_xticklabels()] == ["a", "b"]


def test_parallel_coordinates_draw_the_best_last():
    settings = [{"lr": "1e-2", "model": "a"}, {"lr": "1e-4", "model": "b"}]
    axis = parallel_figure(["lr", "model"], settings, [1.0, 2.0]).axes[0]
    drawn = [list(line.get_ydata()) for line in axis.lines[:2]]
    assert drawn == [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def test_a_complete_run_is_not_trained_again(prepared, tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(launch_module, "run_worker", lambda *arguments: trained.append(1))
    job = smoke_job(prepared, tmp_path, run=RunConfig(dir=str(tmp_path / "run")))
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run", RunRecord(job.digest(), "complete", step=12, num_steps=12, objective=2.5))
    assert launch(job, "") == 2.5
    assert capsys.readouterr().err == f"run directory: {tmp_path / 'run'}: already complete, step 12\n"
    assert trained == []
    job.trainer.max_steps = 6
    assert launch(job, "") == 2.5
    write_record(tmp_path / "run", RunRecord(job.digest(), "complete", step=4, num_steps=4, objective=2.5))
    launch(job, "")
    assert trained == [1]
    assert read_record(tmp_path / "run").state == "running"


def test_at_least_one_job_at_once():
    with pytest.raises(ValueError) as caught:
        LauncherConfig(max_jobs_at_once=0)
    assert str(caught.value) == "launcher.max_jobs_at_once (0): must be at least 1"
