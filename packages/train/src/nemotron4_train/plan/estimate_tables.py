"""Tables of an estimate: a step of each leg, its memory, published steps of the same shape, and the whole run.

Invariant: nothing is computed here but sums, shares and units; all figures are those of `Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table

from nemotron4_train.estimates.memory import Memory
from nemotron4_train.estimates.published import published_steps
from nemotron4_train.plan.estimate import Comparison, Estimate, LegEstimate, PhaseEstimate, StepEstimate, sum_known
from nemotron4_train.plan.plan_job import PlanJob

_MEMORY_KINDS = ("parameters", "gradients", "optimizer", "activations", "logits", "gathered", "allowance")


def print_estimate(console: Console, job: PlanJob, found: Estimate) -> None:
    """Print all that is known: without a machine, memory alone."""
    if found.days is not None:
        console.print(_steps(found))
    console.print(_memory(found))
    for run, of_run in groupby(found.comparisons, key=lambda each: each.published.run):
        console.print(_published(run, list(of_run)))
    if found.days is not None:
        console.print(_whole(found))
    for line in _lines(job, found):
        console.print(line, soft_wrap=True)


def shapes(leg: LegEstimate) -> Iterator[tuple[str, PhaseEstimate]]:
    """Consecutive phases of a leg with one layout, by the names of the first and the last, and the first."""
    for _, same in groupby(leg.phases, key=lambda phase: phase.layout):
        phases = list(same)
        yield "-".join(dict.fromkeys((phases[0].name, phases[-1].name))), phases[0]


def _steps(found: Estimate) -> Table:
    table = Table("phases", "GPUs", "batch x sequence", "micro-batches", "step", "MFU", "tokens/s a GPU")
    table.title = "Predicted step"
    for leg in found.legs:
        for name, phase in shapes(leg):
            if phase.time is None:
                continue
            layout, seconds = phase.layout, phase.time.total_seconds
            table.add_row(
                name,
                f"{layout.num_devices:,}",
                f"{layout.global_batch_size:,} x {layout.sequence_length:,}",
                f"{layout.num_micro_batches} x {layout.micro_batch_size}",
                f"{seconds:.3g} s",
                _percent(phase.mfu),
                f"{layout.tokens_per_step / seconds / layout.num_devices:,.0f}",
            )
    table.caption = "MFU (full attention), of the bf16 peak; micro-batches: their number and size, a rank"
    return table


def _memory(found: Estimate) -> Table:
    table = Table("phases", *_MEMORY_KINDS, "total", "of", title="Predicted memory of a rank, GB")
    for leg in found.legs:
        kinds = (f"{getattr(leg.memory, kind) / 1e9:.2f}" for kind in _MEMORY_KINDS)
        capacity = "" if leg.machine is None else f"{leg.machine.memory_gigabytes:g}"
        table.add_row(leg.name, *kinds, _gigabytes(leg.memory), capacity)
    table.caption = "allowance: context, NCCL and fragmentation, which are stated and not computed"
    return table


def _published(run: str, of_run: list[Comparison]) -> Table:
    table = Table("GPUs", "batch", "published", "MFU", "days", title=f"{run}: published, and predicted")
    for recipe in ("its recipe", "this job"):
        for name in (recipe, "MFU", "GB", "days"):
            table.add_column(name)
    for comparison in of_run:
        published = comparison.published
        layout = published.layout
        row = [f"{layout.num_devices:,}", f"{layout.global_batch_size:,}", f"{published.seconds:g} s"]
        row += [_percent(published.mfu), _days(published.days)]
        for step in (comparison.theirs, comparison.ours):
            assert step.time is not None
            seconds = step.time.total_seconds
            row += [f"{seconds:.3g} s ({_error(seconds, published.seconds)})", _percent(step.mfu)]
            row += [_gigabytes(step.memory), _days(comparison.days(step))]
        table.add_row(*row)
    days = [sum_known(each.published.days for each in of_run)]
    days += [sum_known(each.days(step) for each, step in steps) for steps in _by_recipe(of_run)]
    if days[0] is not None and len(of_run) > 1:
        table.add_row(*[""] * 4, _days(days[0]), *[""] * 3, _days(days[1]), *[""] * 3, _days(days[2]))
    table.caption = "its recipe: the published layout in Megatron-LM's way; this job: the topologies above, by FSDP2"
    if len(of_run) > 1:
        table.caption += f"\n{_constant_guess([each.published.seconds for each in of_run])}"
    return table


def _by_recipe(of_run: list[Comparison]) -> Iterator[list[tuple[Comparison, StepEstimate]]]:
    yield [(each, each.theirs) for each in of_run]
    yield [(each, each.ours) for each in of_run]


def _constant_guess(seconds: list[float]) -> str:
    guess = round(sum(seconds) / len(seconds), 3)
    errors = ", ".join(_error(guess, each) for each in seconds)
    return f"a guess of {guess:g} s for every row, which predicts nothing, is off by {errors}"


def _whole(found: Estimate) -> Table:
    has_price = found.price_per_gpu_hour is not None
    table = Table("phases", "days", "GPU-hours", *["cost"] * has_price, "checkpoints", "failures", title="Whole run")
    for name in ("lost", "best interval", "lost then"):
        table.add_column(name)

    def add(part: LegEstimate | Estimate, name: str, *rest: str) -> None:
        cost = [_number(found.cost(part.gpu_hours))] * has_price
        table.add_row(name, _days(part.days), _number(part.gpu_hours), *cost, f"{part.num_checkpoints:,}", *rest)

    for leg in found.legs:
        if leg.failures is not None:
            own, best = leg.failures.own, leg.failures.best
            interval = f"{best.interval_steps:,} steps, {_number(best.interval_seconds / 60)} min"
            lost = _share(own.lost_days, leg.days), interval, _share(best.lost_days, leg.days)
            add(leg, leg.name, _number(own.num_failures), *lost)
    if len(found.legs) > 1:
        add(found, "all", "", _share(found.lost_days, found.days))
    return table


def _lines(job: PlanJob, found: Estimate) -> Iterator[str]:
    """What does not fit, and what the tables rest on and leave out, a line each."""
    for leg in found.legs:
        if leg.machine is not None and leg.memory.total > leg.machine.memory_bytes:
            yield (
                f"{leg.name}: needs {_gigabytes(leg.memory)} GB and {leg.machine.name} has"
                f" {leg.machine.memory_gigabytes:g}: it does not fit; plan.search=true looks for what does"
            )
    checkpoint = found.legs[0].checkpoint
    beside = "beside training" if checkpoint.is_asynchronous else "while training waits"
    yield (
        f"checkpoint: {checkpoint.total_bytes / 1e9:,.4g} GB, written in {checkpoint.write_seconds:.3g} s at"
        f" plan.storage_gigabytes_per_second={job.plan.storage_gigabytes_per_second:g}, {beside},"
        f" after a pause of {max(leg.checkpoint.pause_seconds for leg in found.legs):.2g} s"
    )
    if found.days is None:
        yield "topology.machine is null, so neither step time nor memory of a device is known; name one of conf/machine"
        return
    machines = {leg.machine.name for leg in found.legs if leg.machine is not None}
    calibrated = {step.machine for step in published_steps() if step.is_fitted}
    if machines - calibrated:
        yield (
            f"{', '.join(sorted(machines - calibrated))}: not calibrated: its stated rates, of which the shares that"
            f" {', '.join(sorted(calibrated))} reaches are assumed"
        )
    lost = found.lost_days or 0.0
    hours = [leg.failures.hours_between_failures for leg in found.legs if leg.failures is not None]
    yield (
        f"failures: one in {' to '.join(dict.fromkeys(_number(each) for each in (min(hours), max(hours))))} hours, at"
        f" plan.hours_between_failures={job.plan.hours_between_failures:g} of one GPU and"
        f" plan.restart_minutes={job.plan.restart_minutes:g}"
    )
    yield (
        f"lost: to failures and pauses, at trainer.save_interval_steps={job.trainer.save_interval_steps}, and at the"
        " interval that loses least (Daly 2006)"
    )
    with_losses = "" if math.isinf(found.days + lost) else f", {_days(found.days + lost)} with what is lost"
    yield f"days: of training steps{with_losses}; validation, evaluation and waiting in a queue are left out"


def _share(lost_days: float | None, days: float | None) -> str:
    """What is lost of the elapsed time."""
    if lost_days is None or days is None:
        return ""
    return "never ends" if math.isinf(lost_days) else f"{lost_days / (lost_days + days):.2%}"


def _error(predicted: float, published: float) -> str:
    return f"{predicted / published - 1:+.1%}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _days(days: float | None) -> str:
    return "" if days is None else f"{days:,.3g}"


def _gigabytes(memory: Memory) -> str:
    return f"{memory.total / 1e9:.1f}"


def _number(value: float | None) -> str:
    if value is None or math.isinf(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "< 0.01"
