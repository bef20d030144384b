import dataclasses
import re
import types

import pytest
import torch
from smoke import smoke_job

from nemotron4_model import DType, ModelConfig, Recompute
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
from nemotron4_train.launching.gpu_limits import check_gpu, needed_bytes
from nemotron4_train.launching.legs import legs
from nemotron4_train.launching.preflight import check_machine, num_threads
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape

FP8 = PrecisionConfig(compute=Precision.fp8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"topology": TopologyConfig(shard=3)},
            "schedule.phases.warmup.global_batch_size (4): must be a multiple of topology.replicate x shard = 3 ranks,"
            " and each rank's share a multiple of topology.micro_batch_size = 8; nearest: 3, 6; or ranks: 2, 4",
        ),
        (
            {"topology": TopologyConfig(tensor=4)},
            "model.num_key_value_heads (2): must be divisible by topology.tensor = 4; nearest tensor sizes: 2",
        ),
        (
            {"topology": TopologyConfig(micro_batch_size=3)},
            "schedule.phases.warmup.global_batch_size (4): must be a multiple of topology.replicate x shard = 1 ranks,"
            " and each rank's share a multiple of topology.micro_batch_size = 3; nearest: 3, 6; or ranks: 2",
        ),
        (
            {"precision": FP8},
            "precision.compute (fp8): needs torchao and an H100 or newer; use precision=bf16",
        ),
        (
            {"precision": FP8, "topology": TopologyConfig(device=Device.cuda)},
            "precision.compute (fp8): uncompiled, it is slower than bf16; set topology.compile=true or use"
            " precision=bf16",
        ),
        (
            {"precision": FP8, "topology": TopologyConfig(device=Device.cuda, tensor=2)},
            "precision.compute (fp8): not with topology.tensor = 2; set it to 1 or use precision=bf16",
        ),
    ],
)
def test_rules_across_groups(tmp_path, changes, message):
    with pytest.raises(ValueError) as caught:
        smoke_job(tmp_path, tmp_path, **changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(("ranks", "micro"), [(1, 3), (2, 4), (3, 1), (3, 8), (4, 2), (16, 2)])
def test_the_nearest_batches_are_those_next_to_it_that_are_valid(tmp_path, ranks, micro):
    job = smoke_job(tmp_path, tmp_path)

    def refusal(batch: int, shard: int = ranks) -> str | None:
        topology = TopologyConfig(shard=shard, micro_batch_size=micro)
        phase = dataclasses.replace(job.schedule.phases["warmup"], global_batch_size=batch, tokens=32 * batch)
        try:
            dataclasses.replace(job, topology=topology, schedule=Schedule(phases={"warmup": phase}))
        except ValueError as error:
            return str(error)

    messages = {batch: refusal(batch) for batch in range(1, 60)}
    valid = [batch for batch, message in messages.items() if message is None]
    for batch, message in messages.items():
        if message is not None and batch < valid[-1]:
            near = {max((v for v in valid if v < batch), default=None), min(v for v in valid if v > batch)} - {None}
            said = message.split("; nearest: ")[1].split("; or ranks: ")
            assert said[0] == ", ".join(map(str, sorted(near)))
            for shard in map(int, said[1].split(", ")):
                assert refusal(batch, shard) is None


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
        (64, {}, "schedule.phases.warmup.sequence_length (32): must be divisible by topology.tensor = 64"),
    ],
)
def test_a_model_or_a_sequence_that_tensor_parallelism_cannot_cut(tmp_path, tensor, model, message):
    job = smoke_job(tmp_path, tmp_path)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job, model=dataclasses.replace(job.model, **model), topology=TopologyConfig(tensor=tensor))
    nearest = 2 if tensor == 64 else 1
    assert str(caught.value) == f"{message}; nearest tensor sizes: {nearest}"


def test_float8_needs_its_topology_in_every_phase(tmp_path):
    job = smoke_job(tmp_path, tmp_path)
    topology = TopologyConfig(device=Device.cuda, compile=True)
    job.schedule.phases["main"].topology = TopologyConfig(device=Device.cuda)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job, topology=topology, precision=FP8)
    assert str(caught.value) == (
        "precision.compute (fp8): uncompiled, it is slower than bf16; set schedule.phases.main.topology.compile=true or"
        " use precision=bf16"
    )


def test_float8_needs_dimensions_that_its_products_take(tmp_path):
    job, topology = smoke_job(tmp_path, tmp_path), TopologyConfig(device=Device.cuda, compile=True)
    assert dataclasses.replace(job, topology=topology, precision=FP8).precision == FP8
    model = dataclasses.replace(job.model, intermediate_size=72)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(job, model=model, topology=topology, precision=FP8)
    assert str(caught.value) == ("model.intermediate_size (72): must be a multiple of 16 for fp8")


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


def sized(tmp_path, model, precision=Precision.bf16, batch=64, **topology):
    """A job of a shipped model on GPUs, with sequences of 4,096 tokens, and its only leg."""
    rate = LearningRate(shape=Shape.constant, end_fraction=1.0)
    phase = Phase(
        tokens=batch * 4_096, blend="pretraining", global_batch_size=batch, sequence_length=4_096, learning_rate=rate
    )
    job = smoke_job(
        tmp_path,
        tmp_path,
        model=ModelConfig.preset(model),
        schedule=Schedule(phases={"main": phase}),
        precision=PrecisionConfig(compute=precision),
        topology=TopologyConfig(device=Device.cuda, **topology),
    )
    (leg,) = legs(job)
    return job, leg


@pytest.mark.parametrize(
    ("model", "topology"),
    [
        ("small_1_75b", {"micro_batch_size": 4}),
        ("nemotron4_15b", {"shard": 8, "tensor": 8, "micro_batch_size": 4}),
        ("nemotron4_15b", {"shard": 8, "micro_batch_size": 1, "recompute": Recompute.full}),
    ],
)
def test_what_an_h100_holds_is_not_refused(tmp_path, model, topology):
    """The second needs no less of a GPU than the paper's mesh, which did fit."""
    check_gpu(*sized(tmp_path, model, **topology), "H100", (9, 0), 80 * 2**30)


@pytest.mark.parametrize(
    ("model", "topology", "gpu", "message"),
    [
        (
            "small_125m",
            {"micro_batch_size": 1},
            ("V100", (7, 0), 32 * 2**30),
            "precision.compute (bf16): needs compute capability 8.0, as of an A100 or newer, and this V100 has 7.0; use"
            " precision=fp32",
        ),
        (
            "small_1_75b",
            {"micro_batch_size": 16},
            ("A100", (8, 0), 40 * 2**30),
            "topology.micro_batch_size (16): each GPU needs at least 91.9 GB (28.1 for weights, optimiser state and"
            " accumulated gradients, 1.0 for the head as it is multiplied, 62.3 for activations, 0.5 for logits), and"
            " this A100 has 42.9; make it smaller, set topology.recompute=full, or shard over more GPUs with another"
            " topology=OPTION",
        ),
        (
            "nemotron4_15b",
            {"micro_batch_size": 1, "recompute": Recompute.full},
            ("H100", (9, 0), 80 * 2**30),
            "model (15,628,775,424 parameters): each GPU needs at least 255.3 GB (250.1 for weights, optimiser state"
            " and accumulated gradients, 3.1 for the head as it is multiplied, 1.6 for activations, 0.5 for logits),"
            " and this H100 has 85.9; choose a smaller one, or shard over more GPUs with another topology=OPTION",
        ),
    ],
)
def test_a_gpu_too_old_or_too_small_is_said_with_what_is_needed(tmp_path, model, topology, gpu, message):
    with pytest.raises(ValueError) as caught:
        check_gpu(*sized(tmp_path, model, **topology), *gpu)
    assert str(caught.value) == message


def test_gradients_and_all_activations_meet_only_where_gradients_accumulate(tmp_path):
    once, twice = (sum(needed_bytes(*sized(tmp_path, "small_1_75b", batch=batch)).values()) for batch in (8, 16))
    assert twice - once == 4 * 1_753_354_240


def test_every_gpu_of_the_machine_is_checked(tmp_path, monkeypatch):
    gpus = [
        types.SimpleNamespace(name=n, major=9, minor=0, total_memory=gib * 2**30) for n, gib in (("A", 80), ("B", 8))
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    job, _ = sized(tmp_path, "small_1_75b", shard=2, micro_batch_size=4)
    with pytest.raises(ValueError, match=r"^model \(1,753,354,240 parameters\): .* and this B has 8\.6; "):
        check_machine(job)


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
            "topology.num_nodes (2): must divide replicate x shard x tensor = 1; nearest: 1",
        ),
        (
            lambda: TopologyConfig(num_nodes=5, shard=24),
            "topology.num_nodes (5): must divide replicate x shard x tensor = 24; nearest: 4, 6",
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
