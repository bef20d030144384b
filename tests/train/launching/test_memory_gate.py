"""The gate before Slurm: what it refuses, that its ways out are ways out, and that no lower bound is above it."""

import itertools
import re
from dataclasses import replace

import pytest
from smoke import smoke_job

from nemotron4_model import ModelConfig
from nemotron4_model.config import Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.job import Precision, PrecisionConfig
from nemotron4_train.launcher_config import LauncherConfig, LauncherKind
from nemotron4_train.launching.gpu_limits import needed_bytes
from nemotron4_train.launching.launch import launch
from nemotron4_train.launching.legs import legs
from nemotron4_train.launching.memory_gate import leg_memory, shortage
from nemotron4_train.launching.preflight import check_machine
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape
from nemotron4_train.topology import Device, TopologyConfig

SLURM = LauncherConfig(kind=LauncherKind.slurm, dry_run=True)
FORCED = LauncherConfig(kind=LauncherKind.slurm, dry_run=True, force=True)


def sized(directory, model, launcher=SLURM, batch=64, in_phase=False, reduce=DType.fp32, **topology):
    """A job of one leg of 4,096 tokens a sequence on GPUs."""
    mesh = TopologyConfig(**{"device": Device.cuda, "machine": "h100_sxm"} | topology)
    rate = LearningRate(shape=Shape.constant, end_fraction=1.0)
    shape = {"global_batch_size": batch, "sequence_length": 4_096, "tokens": batch * 4_096}
    main = Phase(blend="pretraining", learning_rate=rate, topology=mesh if in_phase else None, **shape)
    return smoke_job(
        directory,
        directory,
        model=ModelConfig.preset(model),
        schedule=Schedule(phases={"main": main}),
        precision=PrecisionConfig(compute=Precision.bf16, reduce=reduce),
        topology=TopologyConfig() if in_phase else mesh,
        launcher=launcher,
    )


def refused(job):
    with pytest.raises(ValueError) as caught:
        check_machine(job)
    return str(caught.value)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    job = sized(tmp_path / "runs", "small_1_75b", micro_batch_size=16)
    message = refused(job)
    assert re.fullmatch(
        r"topology\.micro_batch_size \(16\): leg main needs [\d.]+ GB on each GPU \([\d.]+ for parameters, [\d.]+ for"
        r" gradients, [\d.]+ for optimizer, [\d.]+ for activations, [\d.]+ for logits, [\d.]+ for gathered, [\d.]+ for"
        r" allowance\), and h100_sxm has 84\.9; make it fit by topology\.micro_batch_size=8 \([\d.]+ GB\), or"
        r" topology\.recompute=\w+ \([\d.]+ GB\), or another topology=OPTION of more GPUs, or submit it nevertheless"
        r" with launcher\.force=true",
        message,
    )
    needed, *parts = (float(figure) for figure in re.findall(r"([\d.]+) (?:GB on|for \w+[,)])", message))
    assert sum(parts) == pytest.approx(needed, abs=0.4)
    with pytest.raises(ValueError, match=re.escape(message)):
        launch(job, "")
    assert not (tmp_path / "runs").exists()


def test_every_way_out_fits(tmp_path):
    job = sized(tmp_path, "nemotron4_15b", batch=96, shard=8, micro_batch_size=2)
    (leg,) = legs(job)
    ways = re.findall(r"((?:[\w.]+=\w+ )+)\([\d.]+ GB\)", shortage(job, leg))
    assert ways
    for way in ways:
        given = dict(override.split("=") for override in way.split())
        reduce = DType(given.pop("precision.reduce", "fp32"))
        mesh = {key.removeprefix("topology."): value for key, value in given.items()}
        mesh["micro_batch_size"] = int(mesh.get("micro_batch_size", 2))
        mesh["recompute"] = Recompute(mesh.get("recompute", "none"))
        changed = sized(tmp_path, "nemotron4_15b", batch=96, shard=8, reduce=reduce, **mesh)
        assert shortage(changed, legs(changed)[0]) is None, way


def test_force_goes_on_with_a_warning(tmp_path, capsys):
    message = refused(sized(tmp_path, "nemotron4_15b", tensor=8))
    check_machine(sized(tmp_path, "nemotron4_15b", tensor=8, launcher=FORCED))
    said = message.removesuffix(", or submit it nevertheless with launcher.force=true")
    assert capsys.readouterr().err == f"warning: {said}; going on, because of launcher.force=true\n"


def test_the_key_is_that_of_the_phase_whose_topology_is_its_own(tmp_path):
    message = refused(sized(tmp_path, "small_1_75b", in_phase=True, micro_batch_size=16))
    assert message.startswith("schedule.phases.main.topology.micro_batch_size (16): leg main needs ")
    assert " by schedule.phases.main.topology.micro_batch_size=8 (" in message
    message = refused(sized(tmp_path, "nemotron4_340b", in_phase=True, shard=8))
    assert message.startswith("schedule.phases.main.topology.shard (8): leg main needs ")
    assert "make it fit by another topology=OPTION of more GPUs, or" in message


@pytest.mark.parametrize("unchecked", [{"machine": None}, {"machine": "cpu", "device": Device.cpu}])
def test_a_machine_that_is_not_known_and_a_cpu_are_not_checked(tmp_path, unchecked):
    check_machine(sized(tmp_path, "nemotron4_340b", **unchecked))


@pytest.mark.parametrize("launcher", [SLURM, LauncherConfig(dry_run=True)])
def test_a_machine_s_file_that_is_not_there_is_said_wherever_the_job_is_started(tmp_path, launcher):
    job = sized(tmp_path, "small_125m", launcher=launcher, machine=f"{tmp_path}/mine.yaml", device=Device.cpu)
    assert refused(job).startswith(f"topology.machine ({tmp_path}/mine.yaml): cannot be read (No such file")


@pytest.mark.parametrize("model", ["small_125m", "nemotron4_15b", "nemotron4_340b"])
def test_the_lower_bound_of_a_worker_is_not_above_the_estimate(tmp_path, model):
    one = sized(tmp_path, model, batch=64)
    data = ((1, 1, False), (1, 8, False), (1, 8, True), (2, 8, True))
    options = itertools.product(data, (1, 4), (1, 4, 64), Recompute, DType)
    for (replicate, shard, each), tensor, micro, recompute, reduce in options:
        mesh = replace(one.topology, shard=shard, tensor=tensor, micro_batch_size=micro, recompute=recompute)
        mesh = replace(mesh, replicate=replicate, reduce_each_micro_batch=each)
        job = replace(one, topology=mesh, precision=replace(one.precision, reduce=reduce))
        (leg,) = legs(job)
        assert sum(needed_bytes(job, leg).values()) <= leg_memory(job, leg).allocated, mesh
