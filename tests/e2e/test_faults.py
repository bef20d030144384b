"""Kills, signals, topologies and sweeps: the command line run as users run it, in processes of its own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verb import nemotron4

from nemotron4_data import Corpus

TRAIN = ("train", "experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "trainer.save_interval_steps=5")


def metrics(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return [(int(row["step"]), float(row["loss"]), row["phase"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(workspace):
    nemotron4(*TRAIN, "run.name=undisturbed", cwd=workspace)
    return metrics(workspace / "runs" / "undisturbed" / "latest")


def start(workspace, name, *overrides, **environment):
    """Start a run, in a process group of its own; what it says goes to NAME.log."""
    with open(workspace / f"{name}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nemotron4_config.main", *TRAIN, f"run.name={name}", *overrides],
            cwd=workspace,
            env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def start_and_wait(workspace, name, num_rows, *overrides):
    """Start a run and wait until it has written so many rows and a checkpoint."""
    process = start(workspace, name, *overrides)
    file, deadline = workspace / "runs" / name / "latest" / "metrics.csv", time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.is_file() and len(file.read_text().splitlines()) > num_rows:
            return process
        if process.poll() is not None:
            raise AssertionError(f"the run ended early with status {process.returncode}")
        time.sleep(0.01)
    raise AssertionError("the run made no progress in two minutes")


def children(process):
    """The live child processes: of a launcher, its ranks."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def goes_on_like(workspace, name, topology, undisturbed):
    """Run the same command again and compare with one process."""
    nemotron4(*TRAIN, f"run.name={name}", f"topology={topology}", cwd=workspace)
    assert len(list((workspace / "runs" / name).glob("2*"))) == 1
    found = metrics(workspace / "runs" / name / "latest")
    assert [step for step, _, _ in found] == [step for step, _, _ in undisturbed]
    for (_, ours, _), (_, theirs, _) in zip(found, undisturbed, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def record(workspace, name):
    return json.loads((workspace / "runs" / name / "latest" / "run.json").read_text())


def points(directory):
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    return [point.step for point in events.Scalars("train/loss")]


def test_killed_and_rerun_ends_at_the_same_losses(workspace, undisturbed):
    process = start_and_wait(workspace, "killed", 12)
    process.kill()
    process.wait()
    assert len(metrics(workspace / "runs" / "killed" / "latest")) < len(undisturbed)
    nemotron4(*TRAIN, "run.name=killed", cwd=workspace)
    assert len(list((workspace / "runs" / "killed").glob("2*"))) == 1
    assert metrics(workspace / "runs" / "killed" / "latest") == undisturbed
    assert points(workspace / "runs" / "killed" / "latest") == [10, 20, 30]
    nemotron4("report", "run=runs/killed/latest", "compare=[runs/undisturbed/latest]", cwd=workspace)
    report = json.loads((workspace / "runs" / "killed" / "latest" / "report.json").read_text())
    assert [run["run"] for run in report["comparison"]] == ["killed", "undisturbed"]
    assert set(report["comparison"][1]["difference"].values()) == {0.0}


def test_sigterm_saves_and_asks_for_a_requeue(workspace, undisturbed):
    """Sent to the whole process group, as a scheduler does, with the data loader's processes in it."""
    process = start_and_wait(workspace, "terminated", 7, "data.num_workers=1")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 75
    stopped = metrics(workspace / "runs" / "terminated" / "latest")
    assert 7 <= len(stopped) < len(undisturbed)
    assert [path.name for path in (workspace / "runs/terminated/latest/checkpoints").iterdir()][-1:]
    nemotron4(*TRAIN, "run.name=terminated", "data.num_workers=1", cwd=workspace)
    assert metrics(workspace / "runs" / "terminated" / "latest") == undisturbed


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGUSR1, 75),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((signal.SIGTERM, 75), (signal.SIGINT, 130))),
    ],
)
def test_a_signal_to_the_launcher_of_two_ranks_saves_and_stops_them(workspace, undisturbed, number, status):
    name = f"two_ranks_{number.name}"
    process = start_and_wait(workspace, name, 7, "topology=cpu_2x1")
    ranks = children(process)
    assert len(ranks) == 2
    process.send_signal(number)
    assert process.wait(timeout=120) == status
    assert alive(ranks) == []
    found = record(workspace, name)
    assert (found["state"], found["error"]) == ("stopped", None)
    assert 7 <= found["step"] < len(undisturbed)
    assert (workspace / "runs" / name / "latest" / "checkpoints" / f"step-{found['step']:08d}").is_dir()
    log = (workspace / f"{name}.log").read_text()
    assert f"stopped after step {found['step']}, checkpoint saved; run the same command to resume" in log
    assert "Traceback" not in log
    if number == signal.SIGUSR1:
        goes_on_like(workspace, name, "cpu_2x1", undisturbed)


@pytest.mark.parametrize(("seconds", "number", "status"), [(0.0, signal.SIGTERM, 75), (1.5, signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_stops_two_ranks_as_well(workspace, undisturbed, seconds, number, status):
    process = start(workspace, f"early_{seconds}", "topology=cpu_2x1")
    deadline = time.monotonic() + 60
    while len(ranks := children(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(number)
    assert process.wait(timeout=120) == status
    assert alive(ranks) == []
    assert record(workspace, f"early_{seconds}")["state"] == "stopped"


def test_a_killed_rank_ends_the_job_by_name_and_the_same_command_goes_on(workspace, undisturbed):
    process = start_and_wait(workspace, "dead_rank", 12, "topology=cpu_1x2")
    ranks = children(process)
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    assert alive(ranks) == []
    found = record(workspace, "dead_rank")
    assert found["state"] == "failed"
    assert re.fullmatch(r"runs/dead_rank/\S+: rank 1 was killed by SIGKILL", found["error"])
    assert (workspace / "dead_rank.log").read_text().endswith(f"RuntimeError: {found['error']}\n")
    goes_on_like(workspace, "dead_rank", "cpu_1x2", undisturbed)


def test_an_error_of_one_rank_ends_all_with_that_error(workspace, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        """
import os
if os.environ.get("RANK") == "1":
    from nemotron4_train.lightning.module import PretrainingModule
    sound = PretrainingModule.training_step
    def training_step(self, batch, batch_idx):
        if self.next_step == 6:
            raise RuntimeError("the cosmic ray of rank 1")
        return sound(self, batch, batch_idx)
    PretrainingModule.training_step = training_step
"""
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = start(workspace, "one_rank_fails", "topology=cpu_2x1", PYTHONPATH=path)
    assert process.wait(timeout=120) == 1
    assert re.fullmatch(
        r"runs/one_rank_fails/\S+: rank 1 failed: RuntimeError: the cosmic ray of rank 1",
        record(workspace, "one_rank_fails")["error"],
    )
    checkpoints = workspace / "runs" / "one_rank_fails" / "latest" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000005"]


@pytest.mark.slow
def test_four_processes_follow_one(workspace, undisturbed):
    nemotron4(*TRAIN, "run.name=cpu_2x2", "topology=cpu_2x2", cwd=workspace)
    found = metrics(workspace / "runs" / "cpu_2x2" / "latest")
    assert [step for step, _, _ in found] == [step for step, _, _ in undisturbed]
    for (_, ours, _), (_, theirs, _) in zip(found, undisturbed, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    nemotron4("export", "run=runs/cpu_2x2/latest", cwd=workspace)


@pytest.mark.slow
def test_tensor_parallel_validates_documents_of_odd_length(workspace):
    """Sequence parallelism splits a window evenly, so windows must be padded to a multiple of the tensor axis."""
    (workspace / "raw_short").mkdir()
    sources = ("english/short", "english/books", "english/encyclopedia", "multilingual/de", "code/python")
    records = [
        {"id": f"{source}/{n}", "text": "the words " * 4 + "of7", "source": source, "split": split}
        for source in sources
        for n, split in enumerate(["train"] * 40 + ["heldout"])
    ]
    (workspace / "raw_short" / "all.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    nemotron4(
        "prepare", "corpus=files", "corpus.name=short", "corpus.files=[raw_short/*.jsonl]",
        "tokenizer.model=data/tiny/tokenizer/tokenizer.model", cwd=workspace,
    )  # fmt: skip
    corpus = Corpus.open(workspace / "data" / "short")
    lengths = [length for name in corpus.heldout_names for length in np.diff(corpus.heldout(name).offsets)]
    assert max(lengths) < 64
    assert max(lengths) % 2 == 1, "the test needs a longest document of odd length: change its text by a word"
    for topology in ("cpu_1x1", "cpu_1x2"):
        nemotron4(
            *TRAIN, "data.dir=data/short", f"run.name=short_{topology}", f"topology={topology}", "trainer.max_steps=1",
            "blend.max_epochs=20", cwd=workspace,
        )  # fmt: skip
    found = [
        (workspace / "runs" / f"short_{topology}" / "latest" / "validation.csv").read_text()
        for topology in ("cpu_1x1", "cpu_1x2")
    ]
    ours, theirs = [[float(cell) for cell in text.splitlines()[1].split(",")] for text in found]
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_checkpoint_of_another_model_is_refused_before_a_worker_starts(workspace, undisturbed):
    (checkpoint,) = (workspace / "runs" / "undisturbed" / "latest" / "checkpoints").glob("step-00000025")
    done = nemotron4(
        *TRAIN, "run.name=broken", "topology=cpu_2x1", f"resume={checkpoint}", "model.intermediate_size=64",
        cwd=workspace, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        f"nemotron4 train: model.intermediate_size (64): {checkpoint} was trained with "
        "256; choose that model, or another checkpoint\n"
    )
    assert not (workspace / "runs" / "broken").exists()


def test_a_checkpoint_of_another_optimiser_ends_every_rank_with_one_line(workspace, undisturbed):
    (checkpoint,) = (workspace / "runs" / "undisturbed" / "latest" / "checkpoints").glob("step-00000025")
    done = nemotron4(
        *TRAIN, "run.name=broken", "topology=cpu_2x1", f"resume={checkpoint}", "optimizer=muon",
        cwd=workspace, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nemotron4 train: ")]
    assert line.startswith(f"nemotron4 train: {checkpoint}: does not fit this model or its optimiser (")
    assert record(workspace, "broken")["error"] == line.removeprefix("nemotron4 train: ")
    assert "Traceback" not in done.stderr


def test_a_sweep_writes_its_table_and_survives_a_failure(workspace):
    done = nemotron4(
        "train", "-m", "experiment=smoke", "data.dir=data/tiny", "optimizer.lr=-1,1e-3",
        "trainer.max_steps=2", "trainer.validation_bytes_per_source=200", cwd=workspace, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (table,) = (workspace / "runs" / "smoke").glob("sweep_*/sweep.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer.lr"], row["state"]) for row in rows] == [("-1", "failed"), ("0.001", "complete")]
    assert rows[0]["error"] == "optimizer.lr (-1.0): must be greater than 0"
    assert float(rows[1]["objective"]) > 0
    assert (workspace / rows[1]["run_dir"] / "metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_schedule_of_nine_lengths_trains_compiled_as_it_does_plain(workspace):
    """With a real backend, and with validation after each length. torch itself gives up at the ninth."""
    first = {"learning_rate": {"shape": "constant", "end_fraction": 1.0}}
    common = {"blend": "pretraining", "global_batch_size": 2}
    phases = {
        f"length_{length}": {
            **common,
            **(first if length == 8 else {}),
            "sequence_length": length,
            "tokens": 2 * length,
        }
        for length in range(8, 26, 2)
    }
    schedule = workspace / "conf" / "schedule" / "lengths.yaml"
    schedule.parent.mkdir(parents=True)
    schedule.write_text(json.dumps({"shuffle_block_tokens": 64, "phases": phases}))
    found = {}
    for name, how in (("plain", []), ("compiled", ["topology.compile=true"])):
        overrides = ("schedule=lengths", f"run.name={name}", "trainer.validation_interval_steps=1", *how)
        nemotron4(*TRAIN, f"hydra.searchpath=[file://{workspace}/conf]", *overrides, cwd=workspace)
        found[name] = [loss for _, loss, _ in metrics(workspace / "runs" / name / "latest")]
    assert len(found["plain"]) == 9
    assert found["compiled"] == pytest.approx(found["plain"], abs=1e-4)
