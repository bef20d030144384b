"""Sweeps of real trainings: topologies in one sweep, a rerun, a signal, Optuna with the returned loss."""

import csv
import json
import signal

import pytest
from training_process import metric_rows, start_training, wait_until
from verb import nemotron4

pytestmark = pytest.mark.timeout(600)
TRAIN = (
    *("train", "experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "trainer.max_steps=2"),
    "trainer.validation_bytes_per_source=200",
)


def table(sweep):
    with open(sweep / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_topologies_change_within_a_sweep_and_a_rerun_starts_nothing(workspace):
    sweep_topologies = (*TRAIN, "run.name=topologies", "topology=cpu_1x1,cpu_2x1", "-m")
    nemotron4(*sweep_topologies, cwd=workspace)
    (sweep,) = (workspace / "runs" / "topologies").iterdir()
    rows = table(sweep)
    assert [(row["topology"], row["state"]) for row in rows] == [("cpu_1x1", "complete"), ("cpu_2x1", "complete")]
    first, second = (float(row["objective"]) for row in rows)
    assert first == pytest.approx(second, rel=1e-3)
    assert len(list(sweep.glob("job_*/run.json"))) == len(list(sweep.glob("job_*"))) == 2
    assert (sweep / "sweep-topology.png").is_file()

    said = nemotron4(*sweep_topologies, cwd=workspace).stderr
    assert (said.count("already complete"), said.count("started")) == (2, 0)
    assert table(sweep) == rows
    assert [path.name for path in (workspace / "runs" / "topologies").iterdir()] == [sweep.name]


@pytest.mark.slow
def test_a_signal_saves_the_running_job_and_the_same_command_goes_on(workspace):
    command = (*TRAIN[1:-2], "run.name=signalled", "optimizer.lr=1e-3,2e-3", "trainer.save_interval_steps=1000", "-m")
    sweep = start_training(*command, cwd=workspace)
    runs = workspace / "runs" / "signalled"
    wait_until(lambda: any(len(metric_rows(run)) >= 3 for run in runs.glob("sweep_*/job_0_*")), sweep)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(120) == 75
    (directory,) = runs.iterdir()
    assert [row["state"] for row in table(directory)] == ["stopped", "waiting"]
    (first,) = directory.glob("job_0_*")
    stopped = json.loads((first / "run.json").read_text())
    assert stopped["state"] == "stopped"
    nemotron4("train", *command, cwd=workspace)
    assert [row["state"] for row in table(directory)] == ["complete", "complete"]
    steps = [int(row["step"]) for row in metric_rows(first)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > stopped["step"] >= 3


@pytest.mark.slow
def test_optuna_searches_with_the_loss(workspace):
    nemotron4(
        *(*TRAIN, "run.name=search", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "-m"),
        'hydra.sweeper.params={optimizer.lr: "tag(log, interval(1e-4, 1e-2))"}',
        cwd=workspace,
    )
    (sweep,) = (workspace / "runs" / "search").iterdir()
    rows = table(sweep)
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert len({row["optimizer.lr"] for row in rows}) == 2
    best = min(rows, key=lambda row: float(row["objective"]))
    assert best["optimizer.lr"] in (sweep / "optimization_results.yaml").read_text()
    assert (sweep / "sweep-optimizer.lr.png").is_file()
