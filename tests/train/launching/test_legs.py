"""Legs: they cover the timeline; a run of several is the run of one; torchrun by hand; what may change on resume."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from smoke import smoke_job
from training_process import metric_rows

from nemotron4_common.staging import file_sha256
from nemotron4_config import render_job
from nemotron4_data import Corpus
from nemotron4_train.job import RunConfig, TrainerConfig
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.launching.legs import commands_afterwards, leg_job, legs
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.run_directory import read_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.topology import TopologyConfig

MESHES = [TopologyConfig(micro_batch_size=2), TopologyConfig(shard=2, micro_batch_size=2), TopologyConfig(tensor=2)]
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:torch.distributed is disabled:UserWarning")


def with_topologies(job, topologies):
    phases = {
        name: replace(phase, topology=topology)
        for (name, phase), topology in zip(job.schedule.phases.items(), topologies, strict=True)
    }
    return replace(job, schedule=replace(job.schedule, phases=phases))


@given(
    topologies=st.tuples(*[st.sampled_from([None, *MESHES])] * 3),
    max_steps=st.one_of(st.none(), st.integers(1, 20)),
)
def test_legs_cover_the_timeline_and_neighbours_differ(topologies, max_steps):
    job = with_topologies(smoke_job("data", "runs", trainer=TrainerConfig(max_steps=max_steps)), topologies)
    timeline, chain = Timeline(job.schedule, max_steps), legs(job)
    ends = [leg.end_step for leg in chain]
    assert ends == sorted(set(ends))
    assert ends[-1] == timeline.num_steps
    assert all(one.topology != other.topology for one, other in pairwise(chain))
    for start, leg in zip([0, *ends], chain, strict=False):
        assert {timeline.phase_at(step).name for step in range(start, leg.end_step)} == set(leg.phases)
        alone = leg_job(job, leg)
        assert alone.topology == leg.topology
        assert [phase.topology for phase in alone.schedule.phases.values()] == [
            phase.topology or job.topology for phase in job.schedule.phases.values()
        ]
    assert job.digest() == smoke_job("data", "runs").digest()


def test_a_run_of_three_legs_gives_the_losses_of_one(prepared, tmp_path):
    whole = smoke_job(prepared, tmp_path / "whole")
    launch(whole, render_job(whole))
    chain = with_topologies(smoke_job(prepared, tmp_path / "chain", afterwards=["report run={run}"]), MESHES)
    objective = launch(chain, render_job(chain))
    run, one = tmp_path / "chain" / "smoke" / "latest", tmp_path / "whole" / "smoke" / "latest"
    rows, expected = metric_rows(run), metric_rows(one)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert [float(row["loss"]) for row in rows] == pytest.approx([float(row["loss"]) for row in expected], rel=1e-5)
    shared, alone = ({row["step"]: row for row in read_rows(place / "validation.csv")} for place in (run, one))
    for step in ("6", "12"):  # by two ranks that share the documents, and by a tensor pair
        expected = {name: float(value) for name, value in alone[step].items()}
        assert {name: float(value) for name, value in shared[step].items()} == pytest.approx(expected, rel=1e-5)
    record = read_record(run)
    assert (record.state, record.step, record.objective) == ("complete", 12, objective)
    assert file_sha256(run / "tokenizer.model") == record.tokenizer == Corpus.open(prepared).tokenizer_digest


def test_places_in_what_follows_a_run_stay_as_they_are():
    job = smoke_job("{run}", "runs", afterwards=["data verify dir={data} 'run={run}/a b'"])
    run = r"runs/${x}\\${y}"
    (command,) = commands_afterwards(job, Path(run), python="python")
    assert command[3:6] == ("data", "verify", "dir={run}")
    assert OmegaConf.create([command[6]])[0] == f"run={run}/a b"


def test_torchrun_by_hand_joins_a_run_that_was_written(prepared, tmp_path, capsys):
    topology = TopologyConfig(shard=2, micro_batch_size=2)
    job = smoke_job(prepared, tmp_path, topology=topology, launcher=LauncherConfig(dry_run=True, num_threads=1))
    assert launch(job, render_job(job)) is None
    run = (tmp_path / "smoke" / "latest").resolve()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"torchrun --standalone --nproc-per-node 2 -m nemotron4_train.cli {run} 0"
    assert read_record(run).state == "queued"
    for ranks, status in ((1, 1), (2, 0)):
        words = line.replace("--nproc-per-node 2", f"--nproc-per-node {ranks}").split()[1:]
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == status, done.stderr
        if status:
            assert "topology (2 ranks): the launcher started 1; start that many ranks" in done.stderr
    assert read_record(run).state == "complete"
    assert file_sha256(run / "tokenizer.model") == Corpus.open(prepared).tokenizer_digest


def test_what_differs_from_the_run_it_goes_on_with_is_named(prepared, tmp_path):
    run = tmp_path / "run"
    job = smoke_job(prepared, tmp_path, run=RunConfig(dir=str(run)), trainer=TrainerConfig(max_steps=4))
    launch(job, render_job(job))
    changed = replace(
        job,
        optimizer=replace(job.optimizer, weight_decay=0.2),
        trainer=TrainerConfig(max_steps=6, spike_sigma=None),
    )
    with pytest.raises(ValueError) as error:
        launch(changed, render_job(changed))
    assert str(error.value) == (
        f"run.dir ({run}): belongs to another job: optimizer.weight_decay was 0.1, is 0.2; trainer.spike_sigma was"
        " 10.0, is None; repeat the overrides it was started with, choose another run.dir, or continue anyway with"
        " run.allow_changed=[optimizer.weight_decay,trainer.spike_sigma]"
    )
    allowed = replace(changed, run=RunConfig(dir=str(run), allow_changed=["optimizer", "trainer.spike_sigma"]))
    launch(allowed, render_job(allowed))
    assert [row["step"] for row in metric_rows(run)] == [str(step) for step in range(1, 7)]


def test_a_model_cannot_be_changed_on_the_way():
    with pytest.raises(ValueError) as error:
        RunConfig(allow_changed=["model.hidden_size"])
    assert str(error.value) == (
        "run.allow_changed (model.hidden_size): weights and data order depend on it; start another run"
    )


def test_going_back_is_not_undone_by_what_goes_on(prepared, tmp_path):
    run = tmp_path / "run"
    job = smoke_job(prepared, tmp_path, run=RunConfig(dir=str(run)))
    launch(job, render_job(job))
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    back = replace(job, resume=str(run / "checkpoints" / "step-00000004"), trainer=replace(job.trainer, max_steps=6))
    launch(back, render_job(back))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert [name for name in names if name.startswith("step")] == ["step-00000004", "step-00000006"]
    assert len([name for name in names if name.startswith("aside")]) == len(kept) - 1
