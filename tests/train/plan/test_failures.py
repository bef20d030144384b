"""The expected loss to failures, against a simulation of runs that fail, and the best interval, against all others."""

import math
import random
from dataclasses import replace

import pytest
from composed import planned

from nemotron4_train.plan.failures import (
    CheckpointCost,
    Failures,
    checkpoint_cost,
    daly_interval_seconds,
    expected_failures,
    young_interval_seconds,
)
from nemotron4_train.topology import TopologyConfig

_HOUR = 3600.0


def _expected(
    interval_steps: int = 100, hours: float = 10.0, *, write_seconds: float = 60.0, is_asynchronous: bool = True
) -> Failures:
    return expected_failures(
        num_steps=400_000,
        step_seconds=2.0,
        interval_steps=interval_steps,
        cost=CheckpointCost(
            total_bytes=0, pause_seconds=1.0, write_seconds=write_seconds, is_asynchronous=is_asynchronous
        ),
        seconds_between_failures=hours * _HOUR,
        restart_seconds=600.0,
    )


def _simulated_days(interval: float, blocking: float, late: float, between: float) -> float:
    """Mean days of runs of 800,000 seconds: segments, each an interval and its pause, done when nothing fails in them.

    A restart can fail too; what a failure undoes of the segment before, because its checkpoint was still being
    written, is computed again like the restart.
    """
    generator, elapsed, num_runs = random.Random(7), 0.0, 30
    for _ in range(num_runs * round(800_000 / interval)):
        needed = interval + blocking
        while (failure := generator.expovariate(1 / between)) < needed:
            elapsed += failure
            needed = interval + blocking + 600.0 + late
        elapsed += needed
    return elapsed / num_runs / 86_400


@pytest.mark.parametrize("interval_steps", [100, 800, 4_000])
@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_the_expected_loss_is_that_of_simulated_runs(interval_steps, is_asynchronous):
    lost = _expected(interval_steps, is_asynchronous=is_asynchronous).own
    blocking, late = (1.0, 60.0) if is_asynchronous else (61.0, 0.0)
    simulated = _simulated_days(lost.interval_seconds, blocking, late, 10 * _HOUR)
    assert lost.lost_days == pytest.approx(simulated - 800_000 / 86_400, rel=0.1)
    assert lost.checkpoint_days == pytest.approx(400_000 / interval_steps * blocking / 86_400)
    assert lost.restart_days == pytest.approx(lost.num_failures * 600 / 86_400)
    training = 800_000 / 86_400
    assert lost.num_failures == pytest.approx((training + lost.lost_days) * 24 / 10)
    assert lost.lost_days == lost.checkpoint_days + lost.restart_days + lost.repeated_days


def test_steps_made_while_a_checkpoint_is_written_are_lost_with_it():
    """Half an interval is repeated after a failure, and all that was made since the last complete checkpoint began."""
    lost = _expected(800, hours=1_000.0, write_seconds=1_200.0).own
    assert lost.repeated_days * 86_400 / lost.num_failures == pytest.approx(1_600 / 2 + 1_200, rel=0.01)


def test_an_interval_beyond_the_end_is_the_whole_leg():
    assert _expected(10**9, hours=1e6).own.interval_steps == 400_000


@pytest.mark.parametrize("hours", [0.2, 3.0, 100.0])
@pytest.mark.parametrize("cost", [{}, {"is_asynchronous": False}, {"write_seconds": 0.1}, {"write_seconds": 900.0}])
def test_no_interval_loses_less_than_the_best(hours, cost):
    found = _expected(hours=hours, **cost).best
    others = [_expected(round(1.05**power), hours, **cost).own.lost_days for power in range(250)]
    assert found.lost_days <= 1.002 * min(others)


def test_dalys_interval_is_youngs_where_failures_are_rare():
    assert young_interval_seconds(2.0, 10_000.0) == 200.0
    assert daly_interval_seconds(2.0, 1e8) == pytest.approx(young_interval_seconds(2.0, 1e8), rel=1e-3)
    assert daly_interval_seconds(800.0, 1_600.0) == pytest.approx(1_600 * (1 + 1 / 6 + 1 / 36) - 800)
    assert daly_interval_seconds(100.0, 40.0) == 40.0, "a checkpoint that takes longer than the time between failures"


def test_a_run_that_hardly_ever_reaches_a_checkpoint_loses_everything():
    assert _expected(400_000, hours=0.01).own.lost_days == math.inf


def test_an_interval_shorter_than_the_writing_waits_for_it():
    shortest, longest = (_expected(steps).own.checkpoint_days for steps in (10, 30))
    assert shortest == pytest.approx(400_000 / 10 * (1 + 60 - 20) / 86_400)
    assert longest == pytest.approx(400_000 / 30 * 1 / 86_400)


def test_a_checkpoint_pauses_for_gathering_and_a_copy_of_each_ranks_share():
    shipped = planned("nemotron4_15b")
    job = replace(shipped, plan=replace(shipped.plan, storage_gigabytes_per_second=5))
    topology = TopologyConfig(replicate=4, shard=8, tensor=2)
    cost = checkpoint_cost(job, topology)
    assert cost.total_bytes == 12 * job.model.num_parameters
    assert cost.write_seconds == cost.late_seconds == pytest.approx(cost.total_bytes / 5e9)
    assert cost.pause_seconds == pytest.approx(0.3 + cost.total_bytes / 16 / 25e9)  # replicas hold whole copies
    waits = checkpoint_cost(replace(job, trainer=replace(job.trainer, async_checkpoint=False)), topology)
    assert (waits.pause_seconds, waits.late_seconds) == (0.3, 0.0)
    assert waits.blocking_seconds(1e6) == pytest.approx(0.3 + cost.write_seconds)
