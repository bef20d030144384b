"""The dry run: what a fake step counts is what a real step of four processes has."""

from concurrent.futures import ProcessPoolExecutor
from functools import cache

import pytest
from composed import composed
from distributed import run_distributed
from dry_run_worker import fake_step_of, real_steps
from forks import FORKS

from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import memory
from nemotron4_train.plan.dry_run import job_of

MESHES = {  # replicate x shard x tensor: cases
    (1, 2, 2): [
        "precision=bf16 topology.micro_batch_size=2",
        "precision=bf16 topology.micro_batch_size=1 topology.reshard_after_forward=false model.num_layers=1",
    ],
    (2, 2, 1): ["precision=fp32 topology.micro_batch_size=1 topology.recompute=full"],
    (2, 1, 2): ["precision=bf16 topology.micro_batch_size=2 topology.recompute=selective"],
}
CASES = [(mesh, number) for mesh, cases in MESHES.items() for number in range(len(cases))]
MODEL = ["experiment=smoke", "model=ladder_70k", "model.num_layers=2"]


@cache
def job_and_phase(*overrides: str):
    job = composed("plan", *MODEL, *overrides)
    phase = job.schedule.phases["main"]
    return job_of(job, job.topology, phase), phase


def fake_steps(cases):
    with ProcessPoolExecutor(2, mp_context=FORKS, max_tasks_per_child=1) as processes:
        return list(processes.map(fake_step_of, cases))


@pytest.fixture(scope="module")
def steps():
    """Fake and real steps by case, of several micro-batches."""
    found = {}
    for mesh, cases in MESHES.items():
        axes = [f"topology.{axis}={size}" for axis, size in zip(("replicate", "shard", "tensor"), mesh, strict=True)]
        jobs = [job_and_phase(*axes, *case.split()) for case in cases]
        fakes, ranks = fake_steps(jobs), run_distributed(real_steps, 4, mesh, jobs)
        found |= {(mesh, number): (fakes[number], [of[number] for of in ranks]) for number in range(len(cases))}
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_has_the_collectives_of_a_real_step(steps, case):
    fake, ranks = steps[case]
    assert fake.num_micro_batches >= 2
    assert all(real.collectives == fake.collectives for real in ranks)


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_has_the_memory_of_a_real_step(steps, case):
    (mesh, number), (_, ranks) = case, steps[case]
    axes = [f"topology.{axis}={size}" for axis, size in zip(("replicate", "shard", "tensor"), mesh, strict=True)]
    job, phase = job_and_phase(*axes, *MESHES[mesh][number].split())
    predicted = memory(job.model, layout_of(job, phase, job.topology), job.optimizer.kind)
    for real in ranks:
        assert predicted.allocated == pytest.approx(real.peak_bytes, rel=0.15)
        assert predicted.resident == pytest.approx(sum(real.resting_bytes.values()), rel=0.02)


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_has_the_memory_of_a_real_step(steps, case):
    fake, (real, *_) = steps[case]
    assert fake.resting_bytes == real.resting_bytes
    assert fake.peak_bytes == sum(fake.memory_bytes.values()) > sum(fake.resting_bytes.values())
    # Not exactly: in a real step, tensors also wait for the threads that send them.
    assert fake.peak_bytes == pytest.approx(real.peak_bytes, rel=0.15)
