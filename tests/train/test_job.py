import dataclasses
import re

import pytest
from smoke import smoke_job

from nemotron4_model import DType
from nemotron4_train.job import (
    DataConfig,
    Device,
    LauncherConfig,
    OptimizerConfig,
    Precision,
    PrecisionConfig,
    RunConfig,
    TopologyConfig,
    TrainerConfig,
)
from nemotron4_train.launching.preflight import check_machine, num_threads

FP8 = PrecisionConfig(compute=Precision.fp8)


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
        (
            {"precision": FP8},
            "precision.compute (fp8): needs torchao and an H100 or newer; use precision=bf16",
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
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job)
    assert str(caught.value) == (
        "schedule.phases.main.sequence_length (128): must not exceed model.max_sequence_length = 64"
    )


@pytest.mark.parametrize(
    ("tensor", "model", "message"),
    [
        (2, {"intermediate_size": 65}, "model.intermediate_size (65): must be divisible by topology.tensor = 2"),
        (2, {"vocab_size": 1_025}, "model.vocab_size (1025): must be divisible by topology.tensor = 2"),
        (
            64,
            {},
            "schedule.phases.warmup.sequence_length (32): must be divisible by topology.tensor = 64 (sequence"
            " parallel)",
        ),
    ],
)
def test_a_model_or_a_sequence_that_tensor_parallelism_cannot_cut(tmp_path, tensor, model, message):
    job = smoke_job(tmp_path, tmp_path)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job, model=dataclasses.replace(job.model, **model), topology=TopologyConfig(tensor=tensor))
    assert str(caught.value) == message


def test_float8_needs_dimensions_that_its_products_take(tmp_path):
    job, topology = smoke_job(tmp_path, tmp_path), TopologyConfig(device=Device.cuda, tensor=2)
    assert dataclasses.replace(job, topology=topology, precision=FP8).precision == FP8
    model = dataclasses.replace(job.model, intermediate_size=80)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job, model=model, topology=topology, precision=FP8)
    assert str(caught.value) == (
        "model.intermediate_size (80): must be a multiple of 16 x topology.tensor = 32 for fp8"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vocab_size", 9_000_000_000_000, r"model \([\d,]+ parameters\): weights, gradients and optimiser state"),
        ("max_sequence_length", 4_000_000_000_000, r"model\.max_sequence_length \(4000000000000\): the tables of"
         " rotary positions"),
    ],
)  # fmt: skip
def test_a_model_that_no_machine_holds(tmp_path, key, value, message):
    job = smoke_job(tmp_path, tmp_path)
    with pytest.raises(ValueError) as caught:
        check_machine(dataclasses.replace(job, model=dataclasses.replace(job.model, **{key: value})))
    rest = r" take [\d,]+ GB, and this machine has [\d,]+; make it smaller, or choose another topology=OPTION"
    assert re.fullmatch(message + rest, str(caught.value))


def test_threads_of_nested_regions_are_not_ours(tmp_path, monkeypatch):
    job = smoke_job(tmp_path, tmp_path, launcher=LauncherConfig(), topology=TopologyConfig(shard=2))
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert num_threads(job) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError) as caught:
        check_machine(job)
    assert str(caught.value) == "OMP_NUM_THREADS (many): must be a number from 1 to 1024; correct or unset it"


def test_a_machine_without_gpus_is_said_before_anything_starts(tmp_path):
    job = smoke_job(tmp_path, tmp_path, topology=TopologyConfig(device=Device.cuda, shard=2))
    with pytest.raises(ValueError) as caught:
        check_machine(job)
    assert str(caught.value) == (
        "topology.device (cuda): this machine has 0 GPUs (CUDA_VISIBLE_DEVICES is ''), and 2 ranks would run on it;"
        " choose another topology=OPTION"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimizerConfig(lr=0), "optimizer.lr (0): must be greater than 0"),
        (lambda: OptimizerConfig(beta2=1.0), "optimizer.beta2 (1.0): must be in [0, 1)"),
        (lambda: OptimizerConfig(embedding_lr=0.0), "optimizer.embedding_lr (0.0): must be greater than 0, or null"),
        (lambda: OptimizerConfig(head_lr=-1.0), "optimizer.head_lr (-1.0): must be greater than 0, or null"),
        (lambda: TrainerConfig(max_steps=0), "trainer.max_steps (0): must be at least 1, or null"),
        (
            lambda: TrainerConfig(profile_first_step=1),
            "trainer.profile_first_step (1): must be at least 2, because the step before it warms the profiler up,"
            " or null",
        ),
        (lambda: TrainerConfig(profile_num_steps=0), "trainer.profile_num_steps (0): must be at least 1"),
        (
            lambda: TrainerConfig(validation_bytes_per_source=0),
            "trainer.validation_bytes_per_source (0): must be at least 1, or null",
        ),
        (lambda: DataConfig(num_workers=-1), "data.num_workers (-1): must be at least 0, or null"),
        (lambda: LauncherConfig(num_threads=0), "launcher.num_threads (0): must be at least 1, or null"),
        (
            lambda: LauncherConfig(num_threads=99_999_999),
            "launcher.num_threads (99999999): must be at most 1024, or null",
        ),
        (lambda: TrainerConfig(spike_sigma=0.0), "trainer.spike_sigma (0.0): must be above 0, or null"),
        (lambda: TrainerConfig(spike_window_steps=0), "trainer.spike_window_steps (0): must be at least 1"),
        (
            lambda: TrainerConfig(max_skipped_steps_in_a_row=0),
            "trainer.max_skipped_steps_in_a_row (0): must be at least 1",
        ),
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
    trainer = dataclasses.replace(job.trainer, profile_first_step=5, profile_num_steps=1, max_skipped_steps_in_a_row=99)
    assert dataclasses.replace(job, trainer=trainer).digest() == job.digest()
    assert dataclasses.replace(job, topology=TopologyConfig(shard=2, micro_batch_size=2)).digest() == job.digest()
    data = dataclasses.replace(job.data, num_workers=2, verify=False)
    assert dataclasses.replace(job, data=data).digest() == job.digest()
    assert dataclasses.replace(job, seed=7).digest() != job.digest()
    asked = [dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, deterministic=b)) for b in (True, False)]
    assert [other.digest() == job.digest() for other in asked] == [True, False], "the default was true"
    assert dataclasses.replace(job, precision=PrecisionConfig(compute=Precision.bf16)).digest() != job.digest()


@pytest.mark.parametrize(("device", "num_readers"), [(Device.cpu, 0), (Device.cuda, 2)])
def test_readers_are_processes_of_their_own_on_cuda_or_where_asked(tmp_path, device, num_readers):
    job = smoke_job(tmp_path, tmp_path, topology=TopologyConfig(device=device))
    assert job.num_reader_processes == num_readers
    for asked in (0, 1):
        data = dataclasses.replace(job.data, num_workers=asked)
        assert dataclasses.replace(job, data=data).num_reader_processes == asked


@pytest.mark.parametrize(("device", "by_default"), [(Device.cpu, True), (Device.cuda, False)])
def test_kernels_are_deterministic_on_a_cpu_or_where_asked(tmp_path, device, by_default):
    job = smoke_job(tmp_path, tmp_path, topology=TopologyConfig(device=device))
    assert job.is_deterministic is by_default
    for asked in (True, False):
        trainer = dataclasses.replace(job.trainer, deterministic=asked)
        assert dataclasses.replace(job, trainer=trainer).is_deterministic is asked


def test_what_it_computes_in_has_the_names_of_all_jobs():
    assert [precision.dtype for precision in Precision] == [DType.fp32, DType.bf16, DType.bf16]
