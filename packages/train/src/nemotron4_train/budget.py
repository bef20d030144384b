"""The cost of a timeline in FLOPs, and stretching a schedule to a budget of FLOPs.

The convention is that of Hoffmann et al. (arXiv 2203.15556, appendix F): forward and backward, attention as a full
square, the output head included; `ModelConfig.flops_per_token`. They also count the embedding look-up as a product;
we do not. The head must be counted: leaving it out bends the scaling laws of small models (arXiv 2406.19146).

Invariant: fitting a fitted schedule again changes nothing, so a job that is read back is the same job.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nemotron4_model.config import ModelConfig
from nemotron4_train.schedule import Schedule, Timeline


def training_flops(timeline: Timeline, model: ModelConfig) -> int:
    """FLOPs to train the model over the timeline, up to its `num_steps`."""
    total = 0
    for plan in timeline.phases:
        num_steps = min(max(timeline.num_steps - plan.first_step, 0), plan.num_steps)
        total += num_steps * plan.tokens_per_step * model.flops_per_token(plan.phase.sequence_length)
    return total


def fit_to_budget(schedule: Schedule, model: ModelConfig) -> Schedule:
    """The schedule with its phases stretched in proportion, to whole steps that cost `budget_flops`.

    Each phase is rounded to the nearest step, so the cost is off by at most half a step of each phase. A schedule
    within a whole step of each is returned unchanged, as is anything that this has returned. Raises ValueError for too
    small a budget.
    """
    budget = schedule.budget_flops
    if budget is None or not schedule.phases:
        return schedule
    plans = Timeline(schedule).phases
    flops = {plan.name: model.flops_per_token(plan.phase.sequence_length) for plan in plans}
    tolerance = sum(flops[plan.name] * plan.tokens_per_step for plan in plans)
    if abs(training_flops(Timeline(schedule), model) - budget) <= tolerance:
        return schedule
    cost = sum(flops[name] * phase.tokens for name, phase in schedule.phases.items())
    phases = {}
    for plan in plans:
        least = math.ceil(cost * plan.tokens_per_step / plan.phase.tokens)
        if budget < least:
            raise ValueError(
                f"schedule.budget_flops ({budget:g}): leaves phase {plan.name} less than one optimiser step, which is"
                f" {plan.tokens_per_step:,} tokens; raise it to {least:_} or more, or lower"
                f" schedule.phases.{plan.name}.global_batch_size"
            )
        num_steps = round(plan.phase.tokens * budget / cost / plan.tokens_per_step)
        phases[plan.name] = replace(plan.phase, tokens=num_steps * plan.tokens_per_step)
    return replace(schedule, phases=phases)
