"""A job's estimate: memory, step time and cost by phase and by leg, from estimates/ and the timeline.

Invariant: what is printed, drawn and written to plan.json is read off `Estimate`, so the three agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_train.estimates.layout import Layout
from nemotron4_train.estimates.memory import Memory
from nemotron4_train.estimates.step_time import StepTime
from nemotron4_train.machine import Machine
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.topology import TopologyConfig


@dataclass(frozen=True, kw_only=True)
class PhaseEstimate:
    """A phase on its topology."""

    name: str
    layout: Layout
    num_steps: int
    memory: Memory
    time: StepTime | None
    """None on a machine that is not known."""
    mfu: float | None
    """Full attention, recomputation not counted, of the machine's bf16 peak."""
    published_seconds: float | None
    """Of a step of the same shape, where one is published."""


@dataclass(frozen=True, kw_only=True)
class LegEstimate:
    """Consecutive phases on one topology."""

    name: str
    topology: TopologyConfig
    machine: Machine | None
    phases: tuple[PhaseEstimate, ...]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The whole run."""

    legs: tuple[LegEstimate, ...]


def estimate(job: PlanJob) -> Estimate:
    """Estimate the job."""
    raise NotImplementedError
