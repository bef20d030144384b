"""Tables of an estimate: a step of each leg, its memory, published steps of the same shape, and the whole run.

Invariant: nothing is computed here but sums, shares and units; all figures are those of `Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table

from nemotron4_train.estimates.memory import KINDS, Memory
from nemotron4_train.estimates.published import published_steps
from nemotron4_train.plan.cells import duration, folding_table
from nemotron4_train.plan.estimate import Comparison, Estimate, LegEstimate, PhaseEstimate, StepEstimate, sum_known
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.topology import Device

_FEW_FAILURES = 0.01
"""Expected of a whole run; with fewer, what they cost is in plan.json alone."""


def print_estimate(console: Console, job: PlanJob, found: Estimate) -> None:
    """Print all that is known: without a machine, layouts and memory alone."""
    console.print(_steps(found))
    console.print(_memory(found))
    for line in _what_does_not_fit(job, found):
        console.print(line, soft_wrap=True)
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
    of, has_time = _device(found), found.days is not None
    header = ["phases", f"{of}s", "nodes", "replicate x\nshard x tensor", "batch x\nsequence", "micro-\nbatches"]
    table = folding_table(*header, *(("step", "MFU", f"tokens/s\na {of}") if has_time else ()))
    machines = ", ".join(dict.fromkeys(leg.machine.name for leg in found.legs if leg.machine is not None))
    table.title = f"Step, predicted for {machines}" if has_time else "Step"
    for leg in found.legs:
        for name, phase in shapes(leg):
            layout, topology = phase.layout, leg.topology
            row = [name, f"{layout.num_devices:,}", f"{topology.num_nodes:,}"]
            row.append(f"{topology.replicate} x {topology.shard} x {topology.tensor}")
            row.append(f"{layout.global_batch_size:,} x {layout.sequence_length:,}")
            row.append(f"{layout.num_micro_batches} x {layout.micro_batch_size}")
            if has_time and phase.time is not None:
                seconds = phase.time.total_seconds
                speed = f"{layout.tokens_per_step / seconds / layout.num_devices:,.0f}"
                row += [_seconds(seconds), _percent(phase.mfu), speed]
            table.add_row(*row)
    table.caption = "micro-batches: number x sequences, of a rank"
    if has_time:
        table.caption += "; MFU: full attention, of the bf16 peak"
    return table


def _memory(found: Estimate) -> Table:
    largest = max(leg.memory.total for leg in found.legs)
    unit, scale, digits = ("GB", 1e9, ".2f") if largest >= 1e9 else ("MB", 1e6, ",.1f")
    table = folding_table("phases", *KINDS, "total", "of", title=f"Memory of a rank, predicted, {unit}")
    for leg in found.legs:
        kinds = (f"{getattr(leg.memory, kind) / scale:{digits}}" for kind in KINDS)
        capacity = "" if leg.machine is None else f"{leg.machine.memory_gigabytes * 1e9 / scale:,g}"
        table.add_row(leg.name, *kinds, f"{leg.memory.total / scale:,.1f}", capacity)
    table.caption = "allowance: context, NCCL and fragmentation, which are stated and not computed"
    return table


def _what_does_not_fit(job: PlanJob, found: Estimate) -> Iterator[str]:
    way_out = "" if job.plan.search else "; plan.search=true looks for layouts that do"
    for leg in found.legs:
        if leg.machine is not None and leg.memory.total > leg.machine.memory_bytes:
            yield (
                f"{leg.name} does not fit: a rank needs {_gigabytes(leg.memory)} GB,"
                f" and {leg.machine.name} has {leg.machine.memory_gigabytes:g}{way_out}"
            )


def _published(run: str, of_run: list[Comparison]) -> Table:
    predicted = (name for recipe in ("its recipe", "this job") for name in (recipe, "MFU", "GB", "days"))
    table = folding_table("GPUs", "batch", "published", "MFU", "days", *predicted)
    table.title = f"{run}: published, and predicted"
    for comparison in of_run:
        published = comparison.published
        layout = published.layout
        row = [f"{layout.num_devices:,}", f"{layout.global_batch_size:,}", f"{published.seconds:g} s"]
        row += [_percent(published.mfu), _number(published.days)]
        for step in (comparison.theirs, comparison.ours):
            assert step.time is not None
            seconds = step.time.total_seconds
            row += [f"{seconds:.3g} s ({_error(seconds, published.seconds)})", _percent(step.mfu)]
            row += [_gigabytes(step.memory), _number(comparison.days(step))]
        table.add_row(*row)
    days = [sum_known(each.published.days for each in of_run)]
    days += [sum_known(each.days(step) for each, step in steps) for steps in _by_recipe(of_run)]
    if days[0] is not None and len(of_run) > 1:
        table.add_row(*[""] * 4, _number(days[0]), *[""] * 3, _number(days[1]), *[""] * 3, _number(days[2]))
    table.caption = "its recipe: the published layout, run by Megatron-LM; this job: the layouts above, run by FSDP2"
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
    has_price, has_failures = found.price_per_gpu_hour is not None, _has_failures(found)
    header = ["phases", "time", f"{_device(found)}-hours", *["cost"] * has_price, "checkpoints"]
    header += ["failures", "lost", "best interval", "lost then"] * has_failures
    table = folding_table(*header, title="Whole run")

    def add(part: LegEstimate | Estimate, name: str, *rest: str) -> None:
        assert part.days is not None
        cost = [_number(found.cost(part.gpu_hours))] * has_price
        row = [name, duration(part.days), _number(part.gpu_hours), *cost, f"{part.num_checkpoints:,}"]
        table.add_row(*row, *(rest if has_failures else ()))

    for leg in found.legs:
        if leg.failures is not None:
            own, best = leg.failures.own, leg.failures.best
            steps = f"{best.interval_steps:,} step{'s' * (best.interval_steps > 1)}"
            interval = f"{steps}, {duration(best.interval_seconds / 86_400)}"
            lost = _share(own.lost_days, leg.days), interval, _share(best.lost_days, leg.days)
            add(leg, leg.name, _number(own.num_failures), *lost)
    if len(found.legs) > 1:
        add(found, "all", "", _share(found.lost_days, found.days))
    return table


def _has_failures(found: Estimate) -> bool:
    return sum(leg.failures.own.num_failures for leg in found.legs if leg.failures is not None) >= _FEW_FAILURES


def _device(found: Estimate) -> str:
    return "GPU" if any(leg.topology.device is Device.cuda for leg in found.legs) else "rank"


def _lines(job: PlanJob, found: Estimate) -> Iterator[str]:
    """What the tables rest on and leave out, a line each."""
    checkpoint = found.legs[0].checkpoint
    beside = "beside training" if checkpoint.is_asynchronous else "while training waits"
    yield (
        f"checkpoint: {checkpoint.total_bytes / 1e9:,.4g} GB, written in {_seconds(checkpoint.write_seconds)} at"
        f" plan.storage_gigabytes_per_second={job.plan.storage_gigabytes_per_second:g}, {beside},"
        f" after a pause of {max(leg.checkpoint.pause_seconds for leg in found.legs):.2g} s"
    )
    if found.days is None:
        yield (
            "topology.machine is null, so step time and the memory of a device are not known;"
            " name a file of conf/machine, such as topology.machine=h100_sxm"
        )
        return
    machines = {leg.machine.name for leg in found.legs if leg.machine is not None}
    calibrated = {step.machine for step in published_steps() if step.is_fitted}
    if machines - calibrated:
        yield (
            f"step times of {', '.join(sorted(machines - calibrated))} are not calibrated: they assume the shares of"
            f" peak rates that {', '.join(sorted(calibrated))} reaches"
        )
    lost = found.lost_days or 0.0
    with_losses = ""
    if _has_failures(found):
        hours = [leg.failures.hours_between_failures for leg in found.legs if leg.failures is not None]
        range_ = " to ".join(dict.fromkeys(duration(each / 24) for each in (min(hours), max(hours))))
        yield (
            f"failures: one in {range_}, at plan.hours_between_failures={job.plan.hours_between_failures:g} of one GPU"
            f" and plan.restart_minutes={job.plan.restart_minutes:g}"
        )
        yield (
            "lost: the share of the elapsed time that failures and checkpoints take, at trainer.save_interval_steps="
            f"{job.trainer.save_interval_steps} and at the best interval (Daly 2006)"
        )
        with_losses = "" if _never_ends(lost, found.days) else f", {duration(found.days + lost)} with what is lost"
    yield f"time: of training steps{with_losses}; validation, evaluation and waiting in a queue are left out"


def _share(lost_days: float | None, days: float | None) -> str:
    """What is lost of the elapsed time."""
    if lost_days is None or days is None:
        return ""
    return "never ends" if _never_ends(lost_days, days) else f"{lost_days / (lost_days + days):.2%}"


def _never_ends(lost_days: float, days: float) -> bool:
    return lost_days > 100 * days


def _error(predicted: float, published: float) -> str:
    return f"{predicted / published - 1:+.1%}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def _gigabytes(memory: Memory) -> str:
    return f"{memory.total / 1e9:.1f}"


def _number(value: float | None) -> str:
    if value is None or math.isinf(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "< 0.01"
