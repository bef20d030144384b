"""Search: which layouts of a number of devices fit their memory, and which of them trains a job's phases fastest.

A leg is searched as a whole: the phases that share a topology, on layouts that divide the batches of all of them.
Invariant: what is ranked or too large are all the layouts of at most MAX_MICRO_BATCH sequences that the job would
accept, each once, but for tensor sizes that cross machines; a tensor size without one is in `refused`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from nemotron4_common.rules import require
from nemotron4_model.config import Recompute
from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import Memory
from nemotron4_train.estimates.step_time import StepTime
from nemotron4_train.job import Precision
from nemotron4_train.machine import Machine, load_machine
from nemotron4_train.plan.estimate import estimate_step
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.schedule import Phase
from nemotron4_train.topology import Device, TopologyConfig

MAX_MICRO_BATCH = 64
"""Sequences: a larger one gains next to nothing, and small models on few devices would have hundreds of sizes."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is laid out: phases of a job on a number of devices."""

    job: PlanJob
    phases: dict[str, Phase]
    """The phases of the leg by name, with the batch that is asked for."""
    topology: TopologyConfig
    """Theirs in the job; a layout changes the mesh and what is computed again, and nothing else."""
    machine: Machine
    num_nodes: int
    num_devices: int

    @cached_property
    def steps(self) -> dict[tuple[int, int], int]:
        """Optimiser steps by (global batch, sequence length), those that take most of the time first."""
        steps: dict[tuple[int, int], int] = {}
        for phase in self.phases.values():
            shape = phase.global_batch_size, phase.sequence_length
            steps[shape] = steps.get(shape, 0) + -(-phase.tokens // (shape[0] * shape[1]))
        flops = self.job.model.flops_per_token
        return dict(sorted(steps.items(), key=lambda item: -item[1] * item[0][0] * item[0][1] * flops(item[0][1])))

    @property
    def devices_per_node(self) -> int:
        """Of those that are used."""
        return self.num_devices // self.num_nodes


@dataclass(frozen=True, kw_only=True)
class Found:
    """A layout and what is predicted of it."""

    topology: TopologyConfig
    precision: Precision
    step: StepTime
    """Of the shape that takes most of the time."""
    seconds: float
    """Of all steps of the leg."""
    mfu: float
    """Full attention, recomputation not counted, of the bf16 peak."""
    memory: Memory
    """Of the shape that needs most."""

    @property
    def rank(self) -> tuple[object, ...]:
        """What layouts are sorted by: time, then memory, then what decides ties in one order."""
        mesh = self.topology
        reshard, reduce = mesh.reshard_after_forward, mesh.reduce_each_micro_batch
        ties = mesh.tensor, mesh.replicate, -mesh.micro_batch_size, mesh.recompute.value, reshard, reduce
        return (float(f"{self.seconds:.9g}"), self.memory.total, self.precision.value, *ties)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The answer."""

    question: Question
    ranked: list[Found]
    """Those that fit, the fastest first."""
    too_large: list[Found]
    """Those that do not, the fastest first."""
    refused: dict[str, list[int]]
    """Tensor sizes that have no layout, by the rule that they break."""

    def best(self, tensor: int | None = None, precision: Precision | None = None) -> Found | None:
        """The fastest that fits, of a tensor size and a precision."""
        return next((found for found in self.ranked if _is_of(found, tensor, precision)), None)

    def nearest_too_large(self, tensor: int, precision: Precision) -> Found | None:
        """The smallest that does not fit, of those that are faster than all that do."""
        best = self.best(tensor, precision)
        too_large = [found for found in self.too_large if _is_of(found, tensor, precision)]
        faster = [found for found in too_large if best is None or found.seconds < best.seconds]
        return min(faster, key=lambda found: (found.memory.total, found.rank), default=None)


def search(job: PlanJob) -> Search:
    """Rank the layouts of the leg that takes most of the time; ValueError if what is asked for has no answer."""
    question = _question(job)
    refused: dict[str, list[int]] = {}
    found = []
    _check_batches(question)
    for tensor in _divisors(question.num_devices):
        rule = _model_rule(question, tensor) or _batch_rule(question, tensor)
        if rule is None:
            found += [_predict(question, *layout) for layout in _layouts(question, tensor)]
        else:
            refused.setdefault(rule, []).append(tensor)
    found.sort(key=lambda one: one.rank)
    fits = [one.memory.total <= question.machine.memory_bytes for one in found]
    ranked = [one for one, it_fits in zip(found, fits, strict=True) if it_fits]
    too_large = [one for one, it_fits in zip(found, fits, strict=True) if not it_fits]
    return Search(question=question, ranked=ranked, too_large=too_large, refused=refused)


def _question(job: PlanJob) -> Question:
    topology, phases = _longest(job)
    batch = job.plan.global_batch_size
    if batch is not None:
        phases = {name: replace(phase, global_batch_size=batch) for name, phase in phases.items()}
        replace(job.schedule, phases=job.schedule.phases | phases)  # refuses a step of more tokens than the phase has
    name, key = (
        (topology.machine, "topology.machine") if job.plan.machine is None else (job.plan.machine, "plan.machine")
    )
    require(name is not None, "plan.machine", "null", "plan.search needs a kind of machine; give one, such as h100_sxm")
    assert name is not None
    machine = load_machine(name, key)
    num_devices = topology.num_ranks if job.plan.gpus is None else job.plan.gpus
    if job.plan.machine is None and num_devices == topology.num_ranks:
        num_nodes = topology.num_nodes
    else:
        num_nodes = _num_nodes(num_devices, machine)
        device = Device.cuda if machine.cuda_names else Device.cpu
        topology = replace(topology, machine=name, device=device, peak_teraflops=None)
    return Question(
        job=job, phases=phases, topology=topology, machine=machine, num_nodes=num_nodes, num_devices=num_devices
    )


def _longest(job: PlanJob) -> tuple[TopologyConfig, dict[str, Phase]]:
    """The topology that computes longest, at equal efficiency, and all phases on it."""
    legs: list[tuple[TopologyConfig, dict[str, Phase]]] = []
    for name, phase in job.schedule.phases.items():
        topology = phase.topology or job.topology
        of_same = next((phases for other, phases in legs if other == topology), None)
        if of_same is None:
            legs.append((topology, {name: phase}))
        else:
            of_same[name] = phase

    def seconds(leg: tuple[TopologyConfig, dict[str, Phase]]) -> float:
        flops = sum(phase.tokens * job.model.flops_per_token(phase.sequence_length) for phase in leg[1].values())
        return flops / leg[0].num_ranks

    return max(legs, key=seconds)


def _num_nodes(num_devices: int, machine: Machine) -> int:
    """Whole machines, or a part of one."""
    size = machine.devices_per_node
    below = max(num_devices // size * size, 1)
    rule = f"must be at most {size}, or fill machines of {size} ({machine.name}); nearest: {below}, {below + size}"
    require(num_devices < size or num_devices % size == 0, "plan.gpus", num_devices, rule)
    return max(num_devices // size, 1)


def _check_batches(question: Question) -> None:
    """Raise ValueError unless some tensor size divides every batch over its data-parallel ranks."""
    sizes = [tensor for tensor in _divisors(question.num_devices) if _model_rule(question, tensor) is None]
    if any(_batch_rule(question, tensor) is None for tensor in sizes):
        return
    ranks = question.num_devices // max(sizes)
    batches = {name: phase.global_batch_size for name, phase in question.phases.items()}
    name, batch = next((name, batch) for name, batch in batches.items() if batch % ranks)
    asked = question.job.plan.global_batch_size is not None
    key = "plan.global_batch_size" if asked else f"schedule.phases.{name}.global_batch_size"
    nearest = ", ".join(str(number) for number in (batch // ranks * ranks, batch // ranks * ranks + ranks) if number)
    raise ValueError(
        f"{key} ({batch}): no layout of {question.num_devices:,} devices divides it; nearest: {nearest};"
        " or change plan.gpus"
    )


def _model_rule(question: Question, tensor: int) -> str | None:
    """Why the model or the machine has no layout of this tensor size, if so."""
    if question.devices_per_node % tensor:
        return f"would cross machines of {question.devices_per_node}: every layer would wait for the network"
    for name in ("num_key_value_heads", "intermediate_size", "vocab_size"):
        if getattr(question.job.model, name) % tensor:
            return f"does not divide model.{name} = {getattr(question.job.model, name):,}"
    lengths = (length for _, length in question.steps if length % tensor)
    return next((f"does not divide sequences of {length:,} tokens" for length in lengths), None)


def _batch_rule(question: Question, tensor: int) -> str | None:
    ranks = question.num_devices // tensor
    batches = (batch for batch, _ in question.steps if batch % ranks)
    return next((f"{batch:,} sequences are no multiple of {ranks:,} data-parallel ranks" for batch in batches), None)


def _layouts(question: Question, tensor: int) -> Iterator[tuple[TopologyConfig, Precision]]:
    """Every layout of a tensor size that breaks no rule of job.py."""
    ranks = question.num_devices // tensor
    locals_ = [batch // ranks for batch, _ in question.steps]
    micros = [
        micro
        for micro in range(1, min(max(locals_), MAX_MICRO_BATCH) + 1)
        if all(local % min(micro, local) == 0 for local in locals_)
    ]
    on_gpu = question.topology.device is Device.cuda
    for shard, micro in product(_divisors(ranks), micros):
        reshards = (False, True) if shard > 1 else (True,)
        reduces = (False, True) if shard > 1 and micro < max(locals_) else (False,)
        for recompute, reshard, reduce in product(Recompute, reshards, reduces):
            topology = replace(
                question.topology,
                num_nodes=question.num_nodes,
                replicate=ranks // shard,
                shard=shard,
                tensor=tensor,
                micro_batch_size=micro,
                recompute=recompute,
                reshard_after_forward=reshard,
                reduce_each_micro_batch=reduce,
                # Published speeds are those of fused kernels; on a CPU, as the job says.
                compile=on_gpu or question.topology.compile,
            )
            for precision in precisions(question, tensor):
                yield topology, precision


def precisions(question: Question, tensor: int) -> list[Precision]:
    """The job's, and bf16 with float8 where the job's is one of the two and float8 is possible."""
    compute, model = question.job.precision.compute, question.job.model
    if compute is Precision.fp32:
        return [compute]
    has_float8 = question.topology.device is Device.cuda and "fp8" in question.machine.peak_teraflops
    divides = model.hidden_size % 16 == 0 and model.intermediate_size % 16 == 0
    return [Precision.bf16, *([Precision.fp8] if has_float8 and divides and tensor == 1 else [])]


def _predict(question: Question, topology: TopologyConfig, precision: Precision) -> Found:
    job, peak = question.job, topology.peak_teraflops
    phases = {(phase.global_batch_size, phase.sequence_length): phase for phase in question.phases.values()}
    layouts = [replace(layout_of(job, phases[shape], topology), compute=precision) for shape in question.steps]
    steps = [
        estimate_step(job.model, layout, question.machine, job.optimizer.kind, peak_teraflops=peak)
        for layout in layouts
    ]
    times = [step.time for step in steps if step.time is not None]
    mfu = steps[0].mfu
    assert mfu is not None
    return Found(
        topology=topology,
        precision=precision,
        step=times[0],
        seconds=sum(number * time.total_seconds for number, time in zip(question.steps.values(), times, strict=True)),
        mfu=mfu,
        memory=max((step.memory for step in steps), key=lambda needed: needed.total),
    )


def _is_of(found: Found, tensor: int | None, precision: Precision | None) -> bool:
    return tensor in (None, found.topology.tensor) and precision in (None, found.precision)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
