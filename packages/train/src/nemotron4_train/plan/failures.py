"""What a checkpoint takes, the time lost to checkpoints and failures, and the interval that loses least.

Failures come at random at a constant rate. One costs the restart, the steps since the last checkpoint, and, where
checkpoints are written beside training, also the steps made while the last one was being written, which is of no use
until it is complete. Invariant: no other interval loses less than the best by more than a part in 500.
Sources: elapsed time and best interval, J. T. Daly, doi 10.1016/j.future.2004.11.016; its first order, J. W. Young, doi
10.1145/361147.361115.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemotron4_model.config import ModelConfig
from nemotron4_train.job import OptimizerKind
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.topology import TopologyConfig

_HOST_BYTES_PER_SECOND = 25e9
"""What a device's copy to pinned host memory reaches, over 16 lanes of PCIe 4 at the least; stated, not fitted."""
_GATHERING_SECONDS = 0.3
"""To gather a state of some hundred tensors, each copied by a call of its own; 0.25 seconds were measured on a CPU."""
_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class CheckpointCost:
    """What one checkpoint takes."""

    total_bytes: int
    """Of all ranks: weights and optimiser state, fp32."""
    pause_seconds: float
    """That training waits in any case: for the state to be gathered and, if asynchronous, copied to host memory."""
    write_seconds: float
    """To storage."""
    is_asynchronous: bool
    """Whether training goes on while the copy is written; it waits otherwise."""

    def blocking_seconds(self, interval_seconds: float) -> float:
        """All that training waits for: also for the previous save, where that takes longer than the interval."""
        writing = max(self.write_seconds - interval_seconds, 0.0) if self.is_asynchronous else self.write_seconds
        return self.pause_seconds + writing

    @property
    def late_seconds(self) -> float:
        """From the end of the pause to the moment when the checkpoint can be resumed from."""
        return self.write_seconds if self.is_asynchronous else 0.0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a leg is expected to lose, beside its training, at one interval between checkpoints."""

    interval_steps: int
    interval_seconds: float
    """Of training."""
    num_failures: float
    checkpoint_days: float
    restart_days: float
    repeated_days: float
    """Steps that are computed again."""

    @property
    def lost_days(self) -> float:
        """All three."""
        return self.checkpoint_days + self.restart_days + self.repeated_days


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Of a leg."""

    hours_between_failures: float
    """Mean, of all its devices together."""
    best: Loss
    """At the interval that loses least."""
    own: Loss
    """At the job's trainer.save_interval_steps."""


def checkpoint_bytes(model: ModelConfig, optimizer: OptimizerKind) -> int:
    """Bytes of a checkpoint: fp32 weights, and AdamW's two moments or, of the blocks' matrices, Muon's momentum."""
    norms = (2 * model.num_layers + 1) * 2 * model.hidden_size
    by_muon = model.num_non_embedding_parameters - norms if optimizer is OptimizerKind.muon else 0
    return 12 * model.num_parameters - 4 * by_muon


def checkpoint_cost(job: PlanJob, topology: TopologyConfig) -> CheckpointCost:
    """Of the job on a topology, whose ranks hold equal shares."""
    total_bytes, is_asynchronous = checkpoint_bytes(job.model, job.optimizer.kind), job.trainer.async_checkpoint
    copied = total_bytes / (topology.shard * topology.tensor) * is_asynchronous
    return CheckpointCost(
        total_bytes=total_bytes,
        pause_seconds=_GATHERING_SECONDS + copied / _HOST_BYTES_PER_SECOND,
        write_seconds=total_bytes / (job.plan.storage_gigabytes_per_second * 1e9),
        is_asynchronous=is_asynchronous,
    )


def young_interval_seconds(blocking_seconds: float, seconds_between_failures: float) -> float:
    """The best time between checkpoints, to first order."""
    return math.sqrt(2 * blocking_seconds * seconds_between_failures)


def daly_interval_seconds(blocking_seconds: float, seconds_between_failures: float) -> float:
    """The best time of training between checkpoints, to higher order."""
    if blocking_seconds >= 2 * seconds_between_failures:
        return seconds_between_failures
    share = blocking_seconds / (2 * seconds_between_failures)
    first = young_interval_seconds(blocking_seconds, seconds_between_failures)
    return first * (1 + math.sqrt(share) / 3 + share / 9) - blocking_seconds


def expected_failures(
    *,
    num_steps: int,
    step_seconds: float,
    interval_steps: int,
    cost: CheckpointCost,
    seconds_between_failures: float,
    restart_seconds: float,
) -> Failures:
    """What a leg of `num_steps` is expected to lose; infinite where it would hardly ever reach a checkpoint."""

    def loss(steps: int) -> Loss:
        return _loss(num_steps, step_seconds, steps, cost, seconds_between_failures, restart_seconds)

    shortest = cost.late_seconds  # of two saves that do not wait for each other
    asked = daly_interval_seconds(cost.blocking_seconds(shortest), seconds_between_failures)
    steps = math.ceil(shortest / step_seconds), round(asked / step_seconds), 1
    return Failures(
        hours_between_failures=seconds_between_failures / 3600,
        best=loss(min(max(steps), num_steps)),
        own=loss(min(interval_steps, num_steps)),
    )


def _loss(
    num_steps: int, step_seconds: float, interval_steps: int, cost: CheckpointCost, between: float, restart: float
) -> Loss:
    interval, training = interval_steps * step_seconds, num_steps * step_seconds
    blocking = cost.blocking_seconds(interval)
    try:
        of_one = math.exp((restart + cost.late_seconds) / between) * math.expm1((interval + blocking) / between)
        elapsed = between * of_one * training / interval
    except OverflowError:
        elapsed = math.inf
    failures = elapsed / between
    checkpoints, restarts = training / interval * blocking, failures * restart
    repeated = math.inf if elapsed == math.inf else elapsed - training - checkpoints - restarts
    return Loss(
        interval_steps=interval_steps,
        interval_seconds=interval,
        num_failures=failures,
        checkpoint_days=checkpoints / _DAY,
        restart_days=restarts / _DAY,
        repeated_days=repeated / _DAY,
    )
