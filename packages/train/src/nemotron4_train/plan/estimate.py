"""A job's estimate: memory, step time and cost by phase, by leg and of the whole, from estimates/ and the timeline.

Invariant: what is printed, drawn and written to plan.json is read off `Estimate`, so the three agree. A quantity of
time is None where a topology names no machine. Times are those of training steps alone: validation, evaluation, start
and waiting in a queue are left out, and failures are reckoned beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nemotron4_common.rules import divisors, nearest, require
from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.layout import Layout, layout_of
from nemotron4_train.estimates.memory import Memory, memory
from nemotron4_train.estimates.published import PublishedStep, published_step
from nemotron4_train.estimates.stack import Stack
from nemotron4_train.estimates.step_time import StepTime, mfu, step_time
from nemotron4_train.job import OptimizerKind
from nemotron4_train.launching.legs import Leg, legs
from nemotron4_train.machine import Machine, load_machine
from nemotron4_train.plan.failures import CheckpointCost, Failures, checkpoint_cost, expected_failures
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.schedule import PhasePlan
from nemotron4_train.topology import Device, TopologyConfig


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """One optimiser step of a layout."""

    layout: Layout
    memory: Memory
    time: StepTime | None
    """None on a machine that is not known."""
    mfu: float | None
    """Full attention, recomputation not counted, of the machine's bf16 peak."""


@dataclass(frozen=True, kw_only=True)
class PhaseEstimate(StepEstimate):
    """A phase on its topology."""

    name: str
    num_steps: int
    num_tokens: int
    num_checkpoints: int
    published_seconds: float | None
    """Of a step of the same shape, where one is published."""

    @property
    def seconds(self) -> float | None:
        """Of all its steps."""
        return None if self.time is None else self.num_steps * self.time.total_seconds

    @property
    def days(self) -> float | None:
        """Of all its steps."""
        return None if self.seconds is None else self.seconds / 86_400

    @property
    def gpu_hours(self) -> float | None:
        """Of all its devices."""
        return None if self.seconds is None else self.seconds * self.layout.num_devices / 3600


@dataclass(frozen=True, kw_only=True)
class LegEstimate:
    """Consecutive phases on one topology."""

    name: str
    topology: TopologyConfig
    machine: Machine | None
    phases: tuple[PhaseEstimate, ...]
    checkpoint: CheckpointCost
    failures: Failures | None

    @property
    def num_steps(self) -> int:
        """Of all its phases."""
        return sum(phase.num_steps for phase in self.phases)

    @property
    def num_checkpoints(self) -> int:
        """Of all its phases."""
        return sum(phase.num_checkpoints for phase in self.phases)

    @property
    def step_seconds(self) -> float | None:
        """Mean over its steps."""
        seconds = sum_known(phase.seconds for phase in self.phases)
        return None if seconds is None else seconds / self.num_steps

    @property
    def mfu(self) -> float | None:
        """Mean over its time."""
        seconds = sum_known(phase.seconds for phase in self.phases)
        weighted = sum_known(_product(phase.mfu, phase.seconds) for phase in self.phases)
        return None if seconds is None or weighted is None else weighted / seconds

    @property
    def days(self) -> float | None:
        """Of all its steps."""
        return sum_known(phase.days for phase in self.phases)

    @property
    def gpu_hours(self) -> float | None:
        """Of all its steps."""
        return sum_known(phase.gpu_hours for phase in self.phases)

    @property
    def lost_days(self) -> float | None:
        """Expected, to failures and checkpoints, at the job's own interval."""
        return None if self.failures is None else self.failures.own.lost_days

    @property
    def memory(self) -> Memory:
        """Of the phase that takes most."""
        return max((phase.memory for phase in self.phases), key=lambda of_phase: of_phase.total)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published step whose shape the job has, beside predictions of it."""

    published: PublishedStep
    theirs: StepEstimate
    """As it was run: the published layout and recipe."""
    ours: StepEstimate
    """By the job's own."""

    def days(self, step: StepEstimate) -> float | None:
        """Of the published run's tokens, in steps as predicted."""
        num_tokens = self.published.num_tokens
        if num_tokens is None or step.time is None:
            return None
        return num_tokens / step.layout.tokens_per_step * step.time.total_seconds / 86_400


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The whole run."""

    legs: tuple[LegEstimate, ...]
    comparisons: tuple[Comparison, ...]
    price_per_gpu_hour: float | None

    @property
    def num_checkpoints(self) -> int:
        """Of all legs."""
        return sum(leg.num_checkpoints for leg in self.legs)

    @property
    def days(self) -> float | None:
        """Of training steps."""
        return sum_known(leg.days for leg in self.legs)

    @property
    def gpu_hours(self) -> float | None:
        """Of training steps."""
        return sum_known(leg.gpu_hours for leg in self.legs)

    @property
    def published_days(self) -> float | None:
        """Of all published steps that the job has; None where there is none, or one of them was published without."""
        return sum_known(each.published.days for each in self.comparisons) if self.comparisons else None

    @property
    def lost_days(self) -> float | None:
        """Expected, to failures and checkpoints, at the job's own interval."""
        return sum_known(leg.lost_days for leg in self.legs)

    @property
    def lost_gpu_hours(self) -> float | None:
        """Of `lost_days`."""
        return sum_known(_product(leg.lost_days, leg.topology.num_ranks * 24) for leg in self.legs)

    def cost(self, gpu_hours: float | None) -> float | None:
        """Of these hours; None without a price."""
        return _product(gpu_hours, self.price_per_gpu_hour)


def estimate(job: PlanJob) -> Estimate:
    """Estimate the job. Raises ValueError for a machine that is not known."""
    of_legs = [(leg, _machine(leg.topology)) for leg in legs(job)]
    done = tuple(_leg(job, leg, machine) for leg, machine in of_legs)
    return Estimate(
        legs=done,
        comparisons=tuple(_comparisons(job, done)),
        price_per_gpu_hour=job.plan.price_per_gpu_hour,
    )


def estimate_step(
    model: ModelConfig,
    layout: Layout,
    machine: Machine | None,
    optimizer: OptimizerKind = OptimizerKind.adamw,
    *,
    peak_teraflops: float | None = None,
    stack: Stack | None = None,
) -> StepEstimate:
    """Estimate one step, by the usual program of its sharding or another (`stack`).

    `peak_teraflops` replaces the machine's bf16 peak as what MFU is a fraction of.
    """
    time = None if machine is None else step_time(model, layout, machine, stack=stack, optimizer=optimizer)
    share = None
    if machine is not None and time is not None:
        share = mfu(model, layout, machine, time.total_seconds, peak_teraflops)
    return StepEstimate(layout=layout, memory=memory(model, layout, optimizer), time=time, mfu=share)


def sum_known(values: Iterable[float | None]) -> float | None:
    """None if one of them is."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _machine(topology: TopologyConfig) -> Machine | None:
    if topology.machine is None:
        return None
    machine, ranks = load_machine(topology.machine), topology.num_ranks
    fits = [nodes for nodes in divisors(ranks) if ranks // nodes <= machine.devices_per_node]
    require(
        topology.device is Device.cpu or topology.num_nodes in fits,
        "topology.num_nodes",
        topology.num_nodes,
        f"gives {topology.num_ranks_per_node} ranks a node, but {machine.name} has"
        f" {machine.devices_per_node} device{'s' * (machine.devices_per_node > 1)} a node;"
        f" nearest: {nearest(topology.num_nodes, fits)}",
    )
    return machine


def _leg(job: PlanJob, leg: Leg, machine: Machine | None) -> LegEstimate:
    known = LegEstimate(
        name=leg.name,
        topology=leg.topology,
        machine=machine,
        phases=tuple(_phase(job, plan, leg, machine) for plan in job.timeline().phases if plan.name in leg.phases),
        checkpoint=checkpoint_cost(job, leg.topology),
        failures=None,
    )
    return known if known.step_seconds is None else replace(known, failures=_failures(job, known, known.step_seconds))


def _failures(job: PlanJob, leg: LegEstimate, step_seconds: float) -> Failures:
    return expected_failures(
        num_steps=leg.num_steps,
        step_seconds=step_seconds,
        interval_steps=job.trainer.save_interval_steps,
        cost=leg.checkpoint,
        seconds_between_failures=job.plan.hours_between_failures * 3600 / leg.topology.num_ranks,
        restart_seconds=job.plan.restart_minutes * 60,
    )


def _phase(job: PlanJob, plan: PhasePlan, leg: Leg, machine: Machine | None) -> PhaseEstimate:
    layout = layout_of(job, plan.phase, leg.topology)
    step = estimate_step(job.model, layout, machine, job.optimizer.kind, peak_teraflops=leg.topology.peak_teraflops)
    end_step = min(plan.first_step + plan.num_steps, leg.end_step)
    interval, is_end_saved = job.trainer.save_interval_steps, job.trainer.keep_phase_ends or end_step == leg.end_step
    published = _published(job.model, step.layout, machine)
    return PhaseEstimate(
        name=plan.name,
        layout=step.layout,
        num_steps=end_step - plan.first_step,
        num_tokens=(end_step - plan.first_step) * plan.tokens_per_step,
        num_checkpoints=end_step // interval - plan.first_step // interval + (is_end_saved and end_step % interval > 0),
        memory=step.memory,
        time=step.time,
        mfu=step.mfu,
        published_seconds=None if published is None else published.seconds,
    )


def _published(model: ModelConfig, layout: Layout, machine: Machine | None) -> PublishedStep | None:
    published = published_step(model, layout)
    is_same = published is not None and machine is not None and published.machine == machine.name
    return published if is_same else None


def _comparisons(job: PlanJob, done: tuple[LegEstimate, ...]) -> list[Comparison]:
    found = {}
    for leg in done:
        for phase in leg.phases:
            published = _published(job.model, phase.layout, leg.machine)
            if published is not None and phase.layout not in found:
                theirs = estimate_step(
                    published.model, published.layout, load_machine(published.machine), stack=published.stack
                )
                found[phase.layout] = Comparison(published=published, theirs=theirs, ours=phase)
    return list(found.values())


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other
