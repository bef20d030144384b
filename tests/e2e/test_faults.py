"""Kills, signals, topologies and sweeps: the command line run as users run it, in processes of its own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from smoke import nemotron4

from nemotron4_data import Corpus

TRAIN = ("train", "experiment=smoke", "data.dir=data/tiny", "model.vocab_size=1024", "trainer.save_interval_steps=5")


def metrics(directory):
    with open(directory / "metrics.csv", newline="") as file:
        return [(int(row["step"]), float(row["loss"]), row["phase"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(workspace):
    nemotron4(*TRAIN, "run.name=undisturbed", cwd=workspace)
    return metrics(workspace / "runs" / "undisturbed" / "latest")


def start_and_wait(workspace, name, num_rows):
    """Start a run and wait until it has written so many rows and a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nemotron4_config.main", *TRAIN, f"run.name={name}"],
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file, deadline = workspace / "runs" / name / "latest" / "metrics.csv", time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.is_file() and len(file.read_text().splitlines()) > num_rows:
            return process
        if process.poll() is not None:
            raise AssertionError(f"the run ended early with status {process.returncode}")
        time.sleep(0.01)
    raise AssertionError("the run made no progress in two minutes")


def test_killed_and_rerun_ends_at_the_same_losses(workspace, undisturbed):
    process = start_and_wait(workspace, "killed", 12)
    process.kill()
    process.wait()
    assert len(metrics(workspace / "runs" / "killed" / "latest")) < len(undisturbed)
    assert "; running" in (workspace / "runs" / "killed" / "latest" / "report.html").read_text()
    nemotron4(*TRAIN, "run.name=killed", cwd=workspace)
    assert len(list((workspace / "runs" / "killed").glob("2*"))) == 1
    assert metrics(workspace / "runs" / "killed" / "latest") == undisturbed
    nemotron4("report", "run=runs/killed/latest", "compare=[runs/undisturbed/latest]", cwd=workspace)
    report = json.loads((workspace / "runs" / "killed" / "latest" / "report.json").read_text())
    assert [run["run"] for run in report["comparison"]] == ["killed", "undisturbed"]
    assert set(report["comparison"][1]["difference"].values()) == {0.0}


def test_sigterm_saves_and_asks_for_a_requeue(workspace, undisturbed):
    process = start_and_wait(workspace, "terminated", 7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    stopped = metrics(workspace / "runs" / "terminated" / "latest")
    assert 7 <= len(stopped) < len(undisturbed)
    assert [path.name for path in (workspace / "runs/terminated/latest/checkpoints").iterdir()][-1:]
    nemotron4(*TRAIN, "run.name=terminated", cwd=workspace)
    assert metrics(workspace / "runs" / "terminated" / "latest") == undisturbed


def test_four_processes_follow_one(workspace, undisturbed):
    nemotron4(*TRAIN, "run.name=cpu_2x2", "topology=cpu_2x2", cwd=workspace)
    found = metrics(workspace / "runs" / "cpu_2x2" / "latest")
    assert [step for step, _, _ in found] == [step for step, _, _ in undisturbed]
    for (_, ours, _), (_, theirs, _) in zip(found, undisturbed, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    nemotron4("export", "run=runs/cpu_2x2/latest", cwd=workspace)


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


def test_a_checkpoint_of_another_model_ends_every_rank_with_one_line(workspace, undisturbed):
    (checkpoint,) = (workspace / "runs" / "undisturbed" / "latest" / "checkpoints").glob("step-00000025")
    done = nemotron4(
        *TRAIN, "run.name=broken", "topology=cpu_2x1", f"resume={checkpoint}", "model.intermediate_size=64",
        cwd=workspace, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "does not fit this model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_of_four_writes_its_table_and_survives_a_failure(workspace):
    done = nemotron4(
        "train", "-m", "experiment=smoke", "data.dir=data/tiny", "model=nano_1m,nano_3m", "optimizer.lr=1e-3,-1",
        "trainer.max_steps=2", "trainer.validation_bytes_per_source=200", cwd=workspace, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (table,) = (workspace / "runs" / "smoke").glob("sweep_*/sweep.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["optimizer.lr"], row["state"]) for row in rows] == [
        ("nano_1m", "0.001", "complete"),
        ("nano_1m", "-1", "failed"),
        ("nano_3m", "0.001", "complete"),
        ("nano_3m", "-1", "failed"),
    ]
    assert rows[1]["error"] == "optimizer.lr (-1.0): must be greater than 0"
    assert 0 < float(rows[0]["objective"]) != float(rows[2]["objective"])
    assert all((workspace / row["run_dir"] / "metrics.csv").is_file() for row in rows[::2])
