import dataclasses

import pytest
from smoke import smoke_job

from nemotron4_train.job import (
    OptimizerConfig,
    Precision,
    PrecisionConfig,
    RunConfig,
    TopologyConfig,
    TrainerConfig,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topology": TopologyConfig(shard=3)},
            "schedule.phases.warmup.global_batch_size (4): must be a multiple of topology.replicate x shard = 3 ranks,"
            " and each rank's share a multiple of topology.micro_batch_size = 8",
        ),
        (
            {"topology": TopologyConfig(tensor=4)},
            "model.num_key_value_heads (2): must be divisible by topology.tensor = 4",
        ),
        (
            {"topology": TopologyConfig(micro_batch_size=3)},
            "schedule.phases.warmup.global_batch_size (4): must be a multiple of topology.replicate x shard = 1 ranks,"
            " and each rank's share a multiple of topology.micro_batch_size = 3",
        ),
    ],
)
def test_rules_across_groups(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        smoke_job(tmp_path, tmp_path, **changes)
    assert str(caught.value) == message


def test_an_unknown_blend_of_a_phase(tmp_path):
    job = smoke_job(tmp_path, tmp_path)
    job.schedule.phases["main"].blend = "webb"
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job)
    assert str(caught.value) == (
        "schedule.phases.main.blend (webb): not a distribution of the blend; it has: pretraining, continued"
    )


def test_a_sequence_longer_than_the_model(tmp_path):
    job = smoke_job(tmp_path, tmp_path)
    job.schedule.phases["main"].sequence_length = 128
    with pytest.raises(ValueError, match=r"^schedule.phases.main.sequence_length \(128\): must not exceed"):
        dataclasses.replace(job)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimizerConfig(lr=0), "optimizer.lr (0): must be greater than 0"),
        (lambda: OptimizerConfig(beta2=1.0), "optimizer.beta2 (1.0): must be in [0, 1)"),
        (lambda: TrainerConfig(max_steps=0), "trainer.max_steps (0): must be at least 1, or null"),
        (
            lambda: TrainerConfig(profile_first_step=1),
            "trainer.profile_first_step (1): must be at least 2, because the step before it warms the profiler up,"
            " or null",
        ),
        (lambda: TrainerConfig(profile_num_steps=0), "trainer.profile_num_steps (0): must be at least 1"),
        (lambda: TopologyConfig(shard=0), "topology.shard (0): must be at least 1"),
        (lambda: TopologyConfig(peak_teraflops=0), "topology.peak_teraflops (0): must be above 0, or null"),
        (
            lambda: TopologyConfig(num_nodes=2),
            "topology.num_nodes (2): must divide replicate x shard x tensor = 1",
        ),
        (
            lambda: TopologyConfig(tensor=2, compile=True),
            "topology.compile (True): torch.compile with tensor parallelism has given wrong gradients;"
            " set topology.compile=false or tensor=1",
        ),
    ],
)
def test_values_out_of_range(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def test_the_digest_names_what_is_trained_and_not_where(tmp_path):
    job = smoke_job(tmp_path, tmp_path)
    assert dataclasses.replace(job, run=RunConfig(name="elsewhere")).digest() == job.digest()
    assert dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, max_steps=3)).digest() == job.digest()
    trainer = dataclasses.replace(job.trainer, profile_first_step=5, profile_num_steps=1, validation_interval_steps=9)
    assert dataclasses.replace(job, trainer=trainer).digest() == job.digest()
    assert dataclasses.replace(job, topology=TopologyConfig(shard=2, micro_batch_size=2)).digest() == job.digest()
    data = dataclasses.replace(job.data, num_workers=2, verify=False)
    assert dataclasses.replace(job, data=data).digest() == job.digest()
    assert dataclasses.replace(job, seed=7).digest() != job.digest()
    assert dataclasses.replace(job, precision=PrecisionConfig(compute=Precision.bf16)).digest() != job.digest()
