"""The dry run: what a fake step counts is what a real step of four processes has."""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import pytest
from composed import composed
from distributed import run_distributed
from dry_run_worker import fake_steps, killed_step, real_steps
from forks import FORKS

from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import memory
from nemotron4_train.plan.dry_run import DryRun, dry_run, dry_run_tables, job_of, left_out, phases_to_run
from nemotron4_train.plan.fake import start_fake_ranks
from nemotron4_train.plan.step_count import KINDS
from nemotron4_train.plan.tables import show

CASES = {  # by replicate x shard x tensor
    (1, 2, 2): [
        *("precision=bf16", "model.num_layers=2"),
        *("topology.micro_batch_size=1", "topology.reduce_each_micro_batch=true"),
    ],
    (2, 2, 1): ["topology.micro_batch_size=1", "topology.recompute=full", "topology.reshard_after_forward=false"],
    (2, 1, 2): ["precision=bf16", "topology.micro_batch_size=2", "topology.recompute=selective"],
}
MICRO_BATCHES = {(1, 2, 2): 4, (2, 2, 1): 2, (2, 1, 2): 2}
"""Of a rank, in a step; a dry run takes three, and multiplies what the middle one sends."""
MODEL = ["experiment=smoke", "model=ladder_70k", "model.num_layers=1"]


@cache
def job_and_phase(*overrides: str):
    job = composed("plan", *MODEL, *overrides)
    phase = job.schedule.phases["main"]
    return job_of(job, job.topology, phase), phase


def of_mesh(mesh):
    axes = [f"topology.{axis}={size}" for axis, size in zip(("replicate", "shard", "tensor"), mesh, strict=True)]
    return job_and_phase(*axes, *CASES[mesh])


TOGETHER = [((1, 2, 2), (2, 2, 1)), ((2, 1, 2),)]
"""Meshes whose steps are taken by one set of processes. In one process, DTensor confuses meshes that share an axis."""


@cache
def steps_together(meshes):
    cases = [of_mesh(mesh) for mesh in meshes]
    with ProcessPoolExecutor(1, mp_context=FORKS) as processes:
        fakes = processes.submit(fake_steps, cases)
        reals = zip(*run_distributed(real_steps, 4, cases), strict=True)
        return dict(zip(meshes, zip(fakes.result(), reals, strict=True), strict=True))


def steps_of(mesh):
    """A fake step, and the real ones of four ranks."""
    (meshes,) = [meshes for meshes in TOGETHER if mesh in meshes]
    return steps_together(meshes)[mesh]


@pytest.mark.parametrize("mesh", CASES)
def test_a_dry_run_has_the_collectives_of_a_real_step(mesh):
    fake, ranks = steps_of(mesh)
    assert [real.collectives for real in ranks] == [fake.collectives] * 4
    assert fake.num_micro_batches == MICRO_BATCHES[mesh]


@pytest.mark.parametrize("mesh", CASES)
def test_a_prediction_has_the_memory_of_a_real_step(mesh):
    job, phase = of_mesh(mesh)
    predicted = memory(job.model, layout_of(job, phase, job.topology), job.optimizer.kind)
    for real in steps_of(mesh)[1]:
        assert predicted.allocated == pytest.approx(real.peak_bytes, rel=0.15)
        assert predicted.resident == pytest.approx(sum(real.resting_bytes.values()), rel=0.02)


@pytest.mark.parametrize("mesh", CASES)
def test_a_dry_run_has_the_memory_of_a_real_step(mesh):
    fake, (real, *_) = steps_of(mesh)
    # Not exactly: in a real step, tensors also wait for the threads that send them; between steps, a few bytes.
    waiting = real.resting_bytes["activations"]
    assert real.resting_bytes == fake.resting_bytes | {"activations": waiting}
    assert waiting < 1_000
    assert fake.peak_bytes == sum(fake.memory_bytes.values()) > sum(fake.resting_bytes.values())
    assert fake.peak_bytes == pytest.approx(real.peak_bytes, rel=0.15)


def test_gradients_are_reduced_once_a_step_and_state_is_sharded():
    """By hand: all shapes divide by 2."""
    fake, _ = steps_of((2, 2, 1))
    job, _ = job_and_phase()
    weights = 4 * job.model.num_parameters
    bytes_by = {(sent.kind, sent.axis): sent.bytes for sent in fake.collectives}
    assert bytes_by["reduce_scatter", "shard"] == weights
    norm = 4  # added up over the ranks
    assert bytes_by["all_reduce", "replicate"] == weights // 2
    assert bytes_by["all_reduce", "shard"] == norm
    tables = 2 * 4 * job.model.max_sequence_length * job.model.rotary_dim // 2
    assert fake.resting_bytes["parameters"] == weights // 2 + tables
    num_steps = fake.resting_bytes["optimizer"] - weights
    assert 0 < num_steps < 200  # a count of steps for each parameter
    assert fake.resting_bytes["gradients"] == fake.resting_bytes["gathered"] == fake.resting_bytes["activations"] == 0


def test_a_plan_prints_a_dry_run_of_each_different_step(tmp_path, capsys):
    job = composed("plan", *MODEL, "plan.dry_run=true", f"run.root={tmp_path}")
    assert [name for name, _, _ in phases_to_run(job)] == ["warmup", "main"]
    del job.schedule.phases["warmup"]
    show(job)
    shown = capsys.readouterr().out
    assert "dry run of main: a step of rank 0 of 1 on tensors without values" in shown
    assert "Dry run of main, 1 rank: live tensors of a rank" in shown


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (killed_step, "its process was killed, perhaps for memory"),
        (divmod, "failed with torch .*: unsupported operand"),
    ],
)
def test_a_dry_run_that_fails_says_so_in_one_line(monkeypatch, run, message):
    job, phase = job_and_phase()
    monkeypatch.setattr("nemotron4_train.plan.dry_run._run", run)
    with pytest.raises(ValueError, match=f"^plan.dry_run \\(true\\): {message}.*; leave it out.*$"):
        dry_run(job, job.topology, phase)


def test_a_torch_without_the_internals_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.testing._internal.distributed.fake_pg", None)
    with pytest.raises(ValueError, match=r"^plan.dry_run \(true\): torch .* has no fake process group"):
        start_fake_ranks(4)


def test_what_a_dry_run_leaves_out_is_said():
    job, _ = job_and_phase("precision=fp8", "topology.device=cuda", "topology.compile=true", "data.mask_documents=true")
    nothing = dict.fromkeys(KINDS, 0)
    run = DryRun(
        memory_bytes=nothing, resting_bytes=nothing, peak_bytes=0, collectives=(), num_micro_batches=1, seconds=0
    )
    memory, _ = dry_run_tables("main", job.topology, run, left_out(job, job.topology))
    assert str(memory.caption).endswith("\nleft out: fp8 (run as bf16), torch.compile, masks of documents")
    plain, _ = job_and_phase()
    assert left_out(plain, plain.topology) == []
