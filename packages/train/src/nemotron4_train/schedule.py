"""The token timeline: named phases, each with its tokens, blend, global batch, sequence length and learning rate.

A `Schedule` is the content of conf/schedule/*.yaml; a `Timeline` is the same, expanded into optimiser steps and
samples. Invariant: everything about step k (samples, batch, learning rate, phase) is a function of the schedule and k
alone, so restarts and the number of ranks cannot change it.

Sources: batch ramp 384 -> 768 -> 1152 at 200B and 400B tokens, Nemotron-4 15B report (arXiv 2402.16819, section 3,
Table 2); continued training without warm-up, cosine to 1/100, blend switch at a fifth of the starting rate, "Reuse,
Don't Retrain" (arXiv 2407.07263).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from enum import Enum

from nemotron4_train.topology import TopologyConfig


class Shape(Enum):
    """How the learning rate moves from the segment's first token to its last."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


@dataclass(kw_only=True)
class LearningRate:
    """A segment of the learning-rate curve; it runs until a later phase names another segment."""

    shape: Shape
    """How the rate moves from the segment's start to its end: linear, cosine or constant."""
    start_fraction: float | None = None
    """Rate at the segment's first token, as a fraction of the peak rates; null continues from the end of the previous
    segment (0 at first)."""
    end_fraction: float
    """Rate at the segment's last token, as a fraction of the peak rates (optimizer.lr and the others)."""

    def __post_init__(self) -> None:
        """Refuse negative rates."""
        for name, value in (("start_fraction", self.start_fraction), ("end_fraction", self.end_fraction)):
            if value is not None and not value >= 0:
                raise ValueError(f"schedule.phases.*.learning_rate.{name} ({value}): must be at least 0")
        if self.shape is Shape.constant and self.start_fraction not in (None, self.end_fraction):
            raise ValueError(
                f"schedule.phases.*.learning_rate.start_fraction ({self.start_fraction}): a constant rate is"
                f" end_fraction = {self.end_fraction} throughout; leave start_fraction out, or use shape linear"
            )


@dataclass(kw_only=True)
class Phase:
    """A stretch of training tokens under one blend and one global batch."""

    tokens: int
    """Training tokens of the phase, rounded up to whole optimiser steps."""
    blend: str
    """Name of the distribution in `blend.distributions` that samples are drawn from."""
    global_batch_size: int
    """Sequences per optimiser step, over all ranks."""
    sequence_length: int
    """Tokens per sequence."""
    learning_rate: LearningRate | None = None
    """The segment of the learning-rate curve that starts here; null continues the one in force."""
    topology: TopologyConfig | None = None
    """The mesh that this phase runs on, if it is not the job's; a run on several meshes is a chain of jobs, with
    checkpoints resharded in between."""


@dataclass(kw_only=True)
class Schedule:
    """The timeline as configured."""

    phases: dict[str, Phase] = field(default_factory=dict)
    """Phases by name, in the order they run."""
    shuffle_block_tokens: int = 8_192
    """Tokens of a block, the unit in which a source is shuffled; at least two sequences. After every sample, the tokens
    drawn from each source are within one block of what the blend asks for. Part of the data order."""
    budget_flops: float | None = None
    """FLOPs that training should cost: the phases are stretched in proportion until it does; null leaves them as they
    are."""

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot form a timeline, naming the key."""
        for name, phase in self.phases.items():
            for key in ("tokens", "global_batch_size", "sequence_length"):
                value = getattr(phase, key)
                if value < 1:
                    raise ValueError(f"schedule.phases.{name}.{key} ({value}): must be at least 1")
            step = phase.global_batch_size * phase.sequence_length
            if phase.tokens < step:
                raise ValueError(
                    f"schedule.phases.{name}.tokens ({phase.tokens}): less than one optimiser step, which is"
                    f" global_batch_size x sequence_length = {step}; raise it"
                )
        if self.budget_flops is not None and not 0 < self.budget_flops < math.inf:
            raise ValueError(f"schedule.budget_flops ({self.budget_flops}): must be above 0 and finite, or null")
        if self.phases and next(iter(self.phases.values())).learning_rate is None:
            first = next(iter(self.phases))
            raise ValueError(
                f"schedule.phases.{first}.learning_rate (null): the first phase must start a segment;"
                " give it shape and end_fraction"
            )
        longest = max((phase.sequence_length for phase in self.phases.values()), default=1)
        if self.shuffle_block_tokens < 2 * longest:
            raise ValueError(
                f"schedule.shuffle_block_tokens ({self.shuffle_block_tokens}): must hold two sequences, so that "
                f"sources stay within a block of their weights; raise it to {2 * longest} or more"
            )


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """A phase on the timeline: where it starts and how many optimiser steps it takes."""

    name: str
    phase: Phase
    first_step: int
    first_sample: int
    first_token: int
    num_steps: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimiser step."""
        return self.phase.global_batch_size * self.phase.sequence_length

    @property
    def num_samples(self) -> int:
        """Sequences in the phase."""
        return self.num_steps * self.phase.global_batch_size

    @property
    def num_tokens(self) -> int:
        """Tokens in the phase, in whole steps."""
        return self.num_steps * self.tokens_per_step


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What optimiser step `step` (from 0) does; the same on every topology."""

    step: int
    phase: str
    first_sample: int
    global_batch_size: int
    sequence_length: int
    tokens_after: int
    """Training tokens seen when the step is done."""
    learning_rate_fraction: float
    """The learning rate at the step's last token, as a fraction of the peak rates."""


@dataclass(frozen=True)
class _Segment:
    shape: Shape
    start: float
    end: float
    first_token: int
    num_tokens: int

    def at(self, token: int) -> float:
        progress = min(1.0, (token - self.first_token) / self.num_tokens)
        if self.shape is Shape.constant:
            return self.end
        if self.shape is Shape.linear:
            return self.start + (self.end - self.start) * progress
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Timeline:
    """A schedule expanded into steps; `max_steps` cuts it short without changing any step."""

    def __init__(self, schedule: Schedule, max_steps: int | None = None) -> None:
        """Expand the phases; raises ValueError for an empty schedule."""
        if not schedule.phases:
            raise ValueError("schedule.phases (empty): a run needs at least one phase; choose one with schedule=OPTION")
        self.phases = _plan_phases(schedule)
        self._segments = _segments(self.phases)
        self._phase_starts = [plan.first_step for plan in self.phases]
        last = self.phases[-1]
        self.full_num_steps = last.first_step + last.num_steps
        self.num_steps = self.full_num_steps if max_steps is None else min(max_steps, self.full_num_steps)
        self.num_samples = last.first_sample + last.num_samples
        self.num_tokens = self.tokens_before(self.num_steps)

    @property
    def blend_phases(self) -> list[tuple[str, int]]:
        """(distribution, tokens) of each phase of the whole timeline, whatever `max_steps` is."""
        return [(plan.phase.blend, plan.num_tokens) for plan in self.phases]

    def phase_at(self, step: int) -> PhasePlan:
        """The phase that step (from 0) belongs to."""
        return self.phases[bisect.bisect_right(self._phase_starts, step) - 1]

    def tokens_before(self, step: int) -> int:
        """Training tokens seen before a step; before step `num_steps`, the run's total."""
        plan = self.phase_at(step)
        return plan.first_token + (step - plan.first_step) * plan.tokens_per_step

    def step(self, step: int) -> StepPlan:
        """Everything that the schedule fixes about one step."""
        plan = self.phase_at(step)
        index = step - plan.first_step
        tokens_after = plan.first_token + (index + 1) * plan.tokens_per_step
        return StepPlan(
            step=step,
            phase=plan.name,
            first_sample=plan.first_sample + index * plan.phase.global_batch_size,
            global_batch_size=plan.phase.global_batch_size,
            sequence_length=plan.phase.sequence_length,
            tokens_after=tokens_after,
            learning_rate_fraction=self.learning_rate_fraction(tokens_after),
        )

    def learning_rate_fraction(self, token: int) -> float:
        """The learning rate after `token` tokens, as a fraction of the peak rates."""
        started = [segment for segment in self._segments if segment.first_token < token] or self._segments[:1]
        return started[-1].at(token)


def _plan_phases(schedule: Schedule) -> list[PhasePlan]:
    plans: list[PhasePlan] = []
    step = sample = token = 0
    for name, phase in schedule.phases.items():
        num_steps = -(-phase.tokens // (phase.global_batch_size * phase.sequence_length))
        plan = PhasePlan(
            name=name, phase=phase, first_step=step, first_sample=sample, first_token=token, num_steps=num_steps
        )
        plans.append(plan)
        step, sample, token = step + num_steps, sample + plan.num_samples, token + plan.num_tokens
    return plans


def _segments(plans: list[PhasePlan]) -> list[_Segment]:
    total = plans[-1].first_token + plans[-1].num_tokens
    starts = [(plan.first_token, plan.phase.learning_rate) for plan in plans if plan.phase.learning_rate is not None]
    segments: list[_Segment] = []
    for (first, rate), end_token in zip(starts, [*(token for token, _ in starts[1:]), total], strict=True):
        assert rate is not None
        previous_end = segments[-1].end if segments else 0.0
        start = previous_end if rate.start_fraction is None else rate.start_fraction
        segments.append(_Segment(rate.shape, start, rate.end_fraction, first, end_token - first))
    return segments
