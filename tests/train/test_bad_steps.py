"""Steps that go wrong in a real run: skipped without a trace in the weights, counted, and too many of them end it."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from bad_steps import fit_with_faults, with_faults
from distributed import run_distributed
from smoke import smoke_job

from nemotron4_train.checkpoints import reading
from nemotron4_train.job import TrainerConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.module import PretrainingModule
from nemotron4_train.run_directory import create, read_record
from nemotron4_train.topology import TopologyConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)
NAN, EXPLODING = ("output", math.nan), ("gradient", 1e4)
MEASURED = ("tokens_per_second", "peak_memory_bytes")


def smoke(prepared, root, **trainer):
    cadence = {"save_interval_steps": 4, "validation_interval_steps": 6, "validation_bytes_per_source": 300}
    guard = {"spike_window_steps": 2, "spike_sigma": 3.0}
    return smoke_job(prepared, root, trainer=TrainerConfig(**(cadence | guard | trainer)))


def run(job, max_steps=None):
    launch(dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=max_steps)), "")
    return directory(job)


def directory(job):
    return (Path(job.run.root) / job.run.name / "latest").resolve()


def rows(run_directory):
    with open(run_directory / "metrics.csv", newline="") as file:
        return [{key: row[key] for key in row if key not in MEASURED} for row in csv.DictReader(file)]


def weights(run_directory, step):
    """Model and optimiser state, as bytes."""
    found = reading.checkpoint_directory(run_directory, step)
    return {path.name: path.read_bytes() for path in found.glob("*.distcp")}


def guard_state(run_directory, step):
    found = reading.checkpoint_directory(run_directory, step)
    return json.loads((found / "state.json").read_text())["guard"]


def test_a_bad_step_moves_on_through_the_data_and_changes_no_bit_of_weights_or_optimiser(
    prepared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(PretrainingModule, "configure_model", with_faults({5: NAN}))
    job = smoke(prepared, tmp_path)
    before = weights(run(job, 5), 5)
    assert before
    after = run(job, 6)
    assert weights(after, 6) == before
    *sound, bad = rows(after)
    assert [row["skipped"] for row in sound] == ["0"] * 5
    assert (bad["skipped"], bad["loss"], bad["grad_norm"]) == ("1", "nan", "nan")
    assert int(bad["tokens"]) == int(sound[-1]["tokens"]) + 8 * 32
    assert "step 6 skipped: loss nan; 1 in a row, 1 in all" in capsys.readouterr().err
    assert guard_state(after, 6)["num_skipped"] == 1
    assert json.loads((after / "report.json").read_text())["loss"] == float(sound[-1]["loss"])
    assert weights(run(job), 12) != before


def test_stopped_and_resumed_around_skipped_steps_equals_undisturbed_bit_for_bit(prepared, tmp_path, monkeypatch):
    """Step 7 is refused by a window that steps 5 and 6 filled, before the second stop; the third is amid a row."""
    monkeypatch.setattr(PretrainingModule, "configure_model", with_faults({3: NAN, 6: EXPLODING, 7: NAN, 9: NAN}))
    whole = run(smoke(prepared, tmp_path / "whole"))
    assert [row["step"] for row in rows(whole) if row["skipped"] == "1"] == ["4", "7", "8", "10"]
    job = smoke(prepared, tmp_path / "stopped")
    for step in (4, 6, 7):
        run(job, step)
    assert guard_state(directory(job), 7)["num_skipped_in_a_row"] == 1
    resumed = run(job)
    assert rows(resumed) == rows(whole)
    assert weights(resumed, 12) == weights(whole, 12)
    assert guard_state(resumed, 12) == guard_state(whole, 12)


def test_too_many_bad_steps_in_a_row_end_the_run_with_a_diagnosis(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainingModule, "configure_model", with_faults(dict.fromkeys((8, 9, 10), NAN)))
    job = smoke(prepared, tmp_path, max_skipped_steps_in_a_row=3)
    with pytest.raises(RuntimeError) as caught:
        run(job)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "step 11 (continued): loss nan; 3 steps in a row were skipped, as many as trainer.max_skipped_steps_in_a_row"
        " allows"
    )
    assert re.fullmatch(r"loss by source: code/\w+ nan, .*english/\w+ nan.*", lines[2])
    assert re.fullmatch(r"gradients that are not finite: .*blocks\.0\.\S+, .* and \d+ more \(of \d+\)", lines[3])
    failed = directory(job)
    record = read_record(failed)
    assert (record.state, record.step) == ("failed", 8)
    assert record.error == " ".join(lines)
    assert reading.find(failed, "auto").directory.name == "step-00000008"
    assert [row["step"] for row in rows(failed)[-2:]] == ["9", "10"]
    more = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_skipped_steps_in_a_row=4))
    assert run(more) == failed
    assert [row["skipped"] for row in rows(failed)] == ["0"] * 8 + ["1"] * 3 + ["0"]


def test_an_exploding_gradient_is_named_as_a_spike(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainingModule, "configure_model", with_faults({6: EXPLODING}))
    with pytest.raises(RuntimeError) as caught:
        run(smoke(prepared, tmp_path, max_skipped_steps_in_a_row=1))
    lines = str(caught.value).splitlines()
    assert re.match(r"step 7 \(main\): gradient norm \S+ is more than 3 sigma of \S+ above \S+; 1 step", lines[0])
    assert re.match(r"mean and sigma of the last 2 accepted steps: loss \S+ and \S+, gradient norm \S+ and ", lines[1])
    assert re.match(r"largest gradients, as fractions of the norm: \S+ (0\.[5-9]|1)", lines[3])


@pytest.mark.timeout(400)
def test_all_ranks_skip_what_one_of_them_saw(prepared, tmp_path):
    job = dataclasses.replace(smoke(prepared, tmp_path), topology=TopologyConfig(shard=2, tensor=2, micro_batch_size=4))
    create(tmp_path / "run", job, "", 12)
    faults = {1: {5: ("output", math.nan)}, 2: {7: ("gradient", 1e4)}, 3: {9: ("gradient", math.inf)}}
    found = run_distributed(fit_with_faults, 4, job, tmp_path / "run", faults, timeout_seconds=390)
    seen, in_steps, after_steps, num_tensors = found[0]
    assert len(seen) == 12
    assert [by_rank[0] for by_rank in found[1:]] == [seen] * 3
    assert [step for step, (_, _, reason) in enumerate(seen) if reason is not None] == [5, 7, 9]
    assert [row["skipped"] for row in rows(tmp_path / "run")] == list("000001010100")
    # A step waits for the device once, and after it ranks agree on nothing more, though a save may be in progress.
    assert in_steps == [["tolist"]] * 12
    busy = [3, 5, 7]  # followed by a save or a validation
    assert [waits for step, waits in enumerate(after_steps) if step not in busy] == [[]] * 8
    assert len(set(num_tensors[1:4])) == 1, "garbage holds tensors, and is not collected at every step"
