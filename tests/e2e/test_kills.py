"""Twenty SIGKILLs in one run, in start-up, steps and saves: it ends where the undisturbed one does, in every bit."""

import random
import time

import pytest
from training_process import metric_rows, start_training, wait_until
from verb import nemotron4

from nemotron4_common.staging import file_sha256
from nemotron4_train.checkpoints import reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

JOB = (
    "experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "logger=csv", "trainer.save_interval_steps=3",
    "schedule.phases.continued.tokens=51_200", "blend.max_epochs=100", "trainer.validation_bytes_per_source=200",
    "launcher.num_threads=1",
)  # fmt: skip
NUM_STEPS, NUM_KILLS = 120, 20
MOMENTS = ("start-up", "step", "save")


def half_saved(run):
    """Checkpoints that are being written, or that a kill has left so."""
    return {(path.name, path.stat().st_ctime_ns) for path in run.glob("checkpoints/*.partial")}


def kill_at(moment, rng, seconds_to_first_step, run, workspace):
    """Start the run and kill it around the moment; returns at which one it really was."""
    rows, left = len(metric_rows(run)), half_saved(run)
    process = start_training(*JOB, "run.name=killed_often", cwd=workspace)
    if moment == "start-up":
        end = time.monotonic() + rng.uniform(0, seconds_to_first_step)
        wait_until(lambda: time.monotonic() >= end or len(metric_rows(run)) > rows, process)
    elif moment == "step":
        more = rng.randint(1, 4)
        wait_until(lambda: len(metric_rows(run)) >= rows + more, process)
        time.sleep(rng.uniform(0, 0.03))
    else:
        wait_until(lambda: not half_saved(run) <= left, process)
        time.sleep(rng.uniform(0, 0.03))
    process.kill()
    assert process.wait() == -9, "the run ended before it was killed"
    if not half_saved(run) <= left:
        return "save"
    return "step" if len(metric_rows(run)) > rows else "start-up"


def test_twenty_kills_change_no_bit(workspace):
    runs = workspace / "runs"
    process, started = start_training(*JOB, "run.name=never_killed", cwd=workspace), time.monotonic()
    undisturbed, killed = runs / "never_killed" / "latest", runs / "killed_often" / "latest"
    wait_until(lambda: bool(metric_rows(undisturbed)), process)
    seconds_to_first_step = time.monotonic() - started
    assert process.wait() == 0
    rng = random.Random(4)
    moments = [MOMENTS[number % 3] for number in range(NUM_KILLS)]
    rng.shuffle(moments)
    found = [kill_at(moment, rng, seconds_to_first_step, killed, workspace) for moment in moments]
    assert set(found) == set(MOMENTS)
    assert len(metric_rows(killed)) < NUM_STEPS
    nemotron4("train", *JOB, "run.name=killed_often", cwd=workspace)
    assert len(metric_rows(killed)) == NUM_STEPS
    assert metric_rows(killed) == metric_rows(undisturbed)
    ours, theirs = (reading.checkpoint_directory(run, NUM_STEPS) for run in (killed, undisturbed))
    assert len(list(ours.glob("*.distcp"))) == 2
    for path in (*theirs.glob("*.distcp"), theirs / "ledger.json"):
        assert file_sha256(ours / path.name) == file_sha256(path), path.name
