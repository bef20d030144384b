"""A run as a chain of jobs: consecutive phases on one topology form a leg, and each leg resumes where the last ended.

Invariant: legs cover the timeline without gap or overlap, so a run of several legs gives the same weights as a run of
one, up to the order of sums; each ends at the end of a phase, where a checkpoint is kept.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from nemotron4_train.job import TrainJob
from nemotron4_train.topology import TopologyConfig


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A stretch of the timeline on one topology."""

    phases: tuple[str, ...]
    topology: TopologyConfig
    end_step: int
    """Optimiser steps of the run when the leg is done."""

    @property
    def name(self) -> str:
        """The name of its only phase, or of its first and last."""
        return "-".join(dict.fromkeys((self.phases[0], self.phases[-1])))


def legs(job: TrainJob) -> list[Leg]:
    """The legs of a run, in order; trainer.max_steps cuts them short."""
    timeline = job.timeline()
    plans = [plan for plan in timeline.phases if plan.first_step < timeline.num_steps]
    found = []
    for topology, of_leg in groupby(plans, key=lambda plan: plan.phase.topology or job.topology):
        same = list(of_leg)
        end_step = min(same[-1].first_step + same[-1].num_steps, timeline.num_steps)
        found.append(Leg(phases=tuple(plan.name for plan in same), topology=topology, end_step=end_step))
    return found


def legs_left(job: TrainJob, done_steps: int) -> list[tuple[int, Leg]]:
    """(number, leg) of each unfinished leg; at least the last one, which also records how the run ended."""
    chain = list(enumerate(legs(job)))
    return [(number, leg) for number, leg in chain if leg.end_step > done_steps] or chain[-1:]


def leg_job(job: TrainJob, leg: Leg) -> TrainJob:
    """The job of one leg: the run's, on the leg's topology, up to the leg's end; other phases keep their topology."""
    phases = {
        name: replace(phase, topology=phase.topology or job.topology) for name, phase in job.schedule.phases.items()
    }
    schedule, trainer = replace(job.schedule, phases=phases), replace(job.trainer, max_steps=leg.end_step)
    return replace(job, topology=leg.topology, schedule=schedule, trainer=trainer)


def commands_afterwards(job: TrainJob, directory: Path, python: str = sys.executable) -> list[Sequence[str]]:
    """The command lines of `afterwards`, split into words, with {run} and {data} filled in."""
    places = {"{run}": str(directory), "{data}": job.data.dir}

    def filled(word: str) -> str:
        # Paths are literal: the command line must not interpolate a `${...}` in them.
        return re.sub(r"\{run\}|\{data\}", lambda name: re.sub(r"(\\*)\$\{", r"\1\1\\${", places[name[0]]), word)

    program = (python, "-m", "nemotron4_config.main")
    return [(*program, *map(filled, shlex.split(line))) for line in job.afterwards]
