"""plan.json: an estimate as data, with the unit of every quantity in its name.

Invariant: strict JSON; what is not known, or infinite, is null.
"""

from __future__ import annotations

import json
import math
from typing import Any

from nemotron4_train.estimates.memory import Memory
from nemotron4_train.plan.estimate import Comparison, Estimate, LegEstimate, PhaseEstimate, StepEstimate
from nemotron4_train.plan.failures import Loss
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.schedule import Timeline

RECORD_FILE = "plan.json"


def plan_record(job: PlanJob, timeline: Timeline, found: Estimate) -> dict[str, Any]:
    """The content of plan.json."""
    return {
        "run": job.run.name,
        "parameters": job.model.num_parameters,
        "memory_bytes": _memory(max((leg.memory for leg in found.legs), key=lambda memory: memory.total)),
        "legs": [_leg(found, leg) for leg in found.legs],
        "days": found.days,
        "gpu_hours": found.gpu_hours,
        "cost": found.cost(found.gpu_hours),
        "published": [_comparison(comparison) for comparison in found.comparisons],
        "published_days": found.published_days,
        "checkpoint": {
            "bytes": found.legs[0].checkpoint.total_bytes,
            "write_seconds": found.legs[0].checkpoint.write_seconds,
            "count": found.num_checkpoints,
            "interval_steps": job.trainer.save_interval_steps,
        },
        "failures": {
            "hours_between_failures_of_one_gpu": job.plan.hours_between_failures,
            "restart_minutes": job.plan.restart_minutes,
            "lost_days": found.lost_days,
            "lost_gpu_hours": found.lost_gpu_hours,
            "lost_cost": found.cost(found.lost_gpu_hours),
        },
        "timeline": [
            {
                "name": plan.name,
                "tokens": plan.num_tokens,
                "steps": plan.num_steps,
                "global_batch_sequences": plan.phase.global_batch_size,
                "sequence_tokens": plan.phase.sequence_length,
                "blend": plan.phase.blend,
            }
            for plan in timeline.phases
        ],
    }


def render_record(record: dict[str, Any]) -> bytes:
    """The file's content."""
    return (json.dumps(_finite(record), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _memory(memory: Memory) -> dict[str, int]:
    """By kind, `allocated` without the allowance and `total` with it; `host` is in neither."""
    return vars(memory) | {"allocated": memory.allocated, "total": memory.total}


def _leg(found: Estimate, leg: LegEstimate) -> dict[str, Any]:
    topology, checkpoint, failures = leg.topology, leg.checkpoint, leg.failures
    return {
        "name": leg.name,
        "machine": None if leg.machine is None else leg.machine.name,
        "gpus": topology.num_ranks,
        "replicate": topology.replicate,
        "shard": topology.shard,
        "tensor": topology.tensor,
        "steps": leg.num_steps,
        "step_seconds": leg.step_seconds,
        "mfu": leg.mfu,
        "days": leg.days,
        "gpu_hours": leg.gpu_hours,
        "cost": found.cost(leg.gpu_hours),
        "memory_bytes": _memory(leg.memory),
        "machine_memory_bytes": None if leg.machine is None else leg.machine.memory_bytes,
        "checkpoint": {
            "count": leg.num_checkpoints,
            "pause_seconds": checkpoint.pause_seconds,
            "write_seconds": checkpoint.write_seconds,
        },
        "failures": None
        if failures is None
        else {
            "hours_between_failures": failures.hours_between_failures,
            "own_interval": _loss(failures.own),
            "best_interval": _loss(failures.best),
        },
        "phases": [_phase(found, phase) for phase in leg.phases],
    }


def _phase(found: Estimate, phase: PhaseEstimate) -> dict[str, Any]:
    return {
        "name": phase.name,
        "steps": phase.num_steps,
        "tokens": phase.num_tokens,
        **_step(phase),
        "published_step_seconds": phase.published_seconds,
        "days": phase.days,
        "gpu_hours": phase.gpu_hours,
        "cost": found.cost(phase.gpu_hours),
        "checkpoints": phase.num_checkpoints,
    }


def _step(step: StepEstimate) -> dict[str, Any]:
    layout, time = step.layout, step.time
    return {
        "global_batch_sequences": layout.global_batch_size,
        "micro_batch_sequences": layout.micro_batch_size,
        "sequence_tokens": layout.sequence_length,
        "step_seconds": None if time is None else time.total_seconds,
        "step_seconds_by_part": {} if time is None else {name.replace(" ", "_"): s for name, s in time.seconds.items()},
        "mfu": step.mfu,
        "memory_bytes": _memory(step.memory),
    }


def _loss(loss: Loss) -> dict[str, Any]:
    return vars(loss) | {"lost_days": loss.lost_days}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    published = comparison.published
    return {
        "run": published.run,
        "source": published.source,
        "gpus": published.layout.num_devices,
        "step_seconds": published.seconds,
        "mfu": published.mfu,
        "tokens": published.num_tokens,
        "days": published.days,
        "predicted_of_its_recipe": _step(comparison.theirs) | {"days": comparison.days(comparison.theirs)},
        "predicted_of_this_job": _step(comparison.ours) | {"days": comparison.days(comparison.ours)},
    }
