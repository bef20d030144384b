"""A dry run: one optimiser step of the real model, recipe and optimiser on tensors without values, as rank 0 of all.

It runs in a process of its own, where a fake process group of the topology's whole size sends nothing and fake tensors
hold nothing (fake_step.py). Invariant: what it counts, a real step counted in the same way has too.
Left out: float8 and torch.compile, whose steps run as bf16 and uncompiled; on CUDA, the masks of packed documents.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.launching.legs import legs
from nemotron4_train.plan.step_count import KINDS, Collective, DryRun
from nemotron4_train.schedule import LearningRate, Phase, Shape
from nemotron4_train.stop_signal import ignore_stop_signals
from nemotron4_train.topology import Device, TopologyConfig

__all__ = ["KINDS", "Collective", "DryRun", "dry_run", "dry_run_tables", "print_dry_runs"]

_WIDTH = 80
"""In which titles and captions do not wrap."""


def print_dry_runs(job: TrainJob, console: Console) -> dict[str, DryRun]:
    """Run and print each step of the job that differs from those before it; the runs by phase."""
    found = {}
    for name, topology, phase in phases_to_run(job):
        console.print(f"dry run of {name}: a step of rank 0 of {topology.num_ranks:,} on tensors without values ...")
        found[name] = dry_run(job, topology, phase)
        for table in dry_run_tables(name, topology, found[name], left_out(job, topology)):
            console.print(table)
    return found


def dry_run(job: TrainJob, topology: TopologyConfig, phase: Phase) -> DryRun:
    """Run a step of a phase on a topology, in a process of its own.

    ValueError when this torch cannot, or the process ends.
    """
    alone = multiprocessing.get_context("spawn")
    results, sender = alone.Pipe(duplex=False)
    process = alone.Process(target=_work, args=(sender, _run, job_of(job, topology, phase), phase), daemon=True)
    process.start()
    sender.close()  # the process has the only other copy: when it ends, so does the pipe
    try:
        result = results.recv()
    except EOFError as error:
        raise _failed("its process was killed, perhaps for memory") from error
    finally:
        process.kill()
        process.join()
    if isinstance(result, DryRun):
        return result
    if isinstance(result, ValueError | OSError):
        raise result
    reason = (str(result) or repr(result)).splitlines()[0]
    where = "HYDRA_FULL_ERROR=1 shows where"
    raise _failed(f"failed with torch {version('torch')}: {reason} ({where})") from result


def _failed(why: str) -> ValueError:
    return ValueError(f"plan.dry_run (true): {why}; leave it out")


def _work(sender: Connection, run: Callable[[TrainJob, Phase], DryRun], job: TrainJob, phase: Phase) -> None:
    """Send what `run` returns or raises. A stop signal is the other process's to handle: it kills this one."""
    ignore_stop_signals(0)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tensors without values need no threads
    try:
        sender.send(run(job, phase))
    except Exception as error:  # torch's internals fail in many ways; the other process says so
        error.add_note(traceback.format_exc())
        sender.send(error)


def _run(job: TrainJob, phase: Phase) -> DryRun:
    from nemotron4_train.plan.fake_step import fake_step

    logging.getLogger("torch").setLevel(logging.ERROR)  # a plan is no place for advice on collectives
    return fake_step(job, phase)


def job_of(job: TrainJob, topology: TopologyConfig, phase: Phase) -> TrainJob:
    """The job with this phase alone: the others may not fit its topology."""
    rate = phase.learning_rate or LearningRate(shape=Shape.constant, end_fraction=1.0)
    only = {"main": replace(phase, topology=None, learning_rate=rate)}
    return replace(job, topology=topology, schedule=replace(job.schedule, phases=only, budget_flops=None))


def phases_to_run(job: TrainJob) -> list[tuple[str, TopologyConfig, Phase]]:
    """(name, topology, phase) of each step that differs from those before it."""
    found: dict[object, tuple[str, TopologyConfig, Phase]] = {}
    for leg in legs(job):
        for name in leg.phases:
            phase = job.schedule.phases[name]
            shape = (repr(leg.topology), phase.global_batch_size, phase.sequence_length)
            found.setdefault(shape, (name, leg.topology, phase))
    return list(found.values())


def left_out(job: TrainJob, topology: TopologyConfig) -> list[str]:
    """What a dry run of the job leaves out."""
    asked = {
        "fp8 (run as bf16)": job.precision.compute is Precision.fp8,
        "torch.compile": topology.compile,
        "masks of documents": job.data.mask_documents and topology.device is Device.cuda,
    }
    return [what for what, is_asked in asked.items() if is_asked]


def dry_run_tables(name: str, topology: TopologyConfig, run: DryRun, without: Sequence[str] = ()) -> list[Table]:
    """The memory and the collectives of a run."""
    where = f"{name}, {topology.num_ranks:,} rank{'s' * (topology.num_ranks > 1)}"
    unit, scale = ("GB", 1e9) if run.peak_bytes >= 1e9 else ("MB", 1e6)
    memory = Table("kind", f"at the peak, {unit}", f"between steps, {unit}", min_width=_WIDTH)
    memory.title = f"Dry run of {where}: live tensors of a rank"
    for kind in KINDS:
        memory.add_row(kind, f"{run.memory_bytes[kind] / scale:.3f}", f"{run.resting_bytes[kind] / scale:.3f}")
    memory.add_row("total", f"{run.peak_bytes / scale:.3f}", f"{sum(run.resting_bytes.values()) / scale:.3f}")
    memory.caption = "without the allocator, NCCL and the context"
    if without:
        memory.caption += f"\nleft out: {', '.join(without)}"
    sent = Table("collective", "axis", "calls", "size", min_width=_WIDTH)
    sent.title = f"Dry run of {where}: collectives of a rank in a step"
    for collective in run.collectives:
        sent.add_row(collective.kind, collective.axis, f"{collective.count:,}", _size(collective.bytes))
    sent.caption = (
        f"micro-batches: {run.num_micro_batches:,}; size: of what goes in or comes out, whichever is larger"
        f"\nthe dry run took {run.seconds:.0f} s"
    )
    return [memory, sent]


def _size(number: int) -> str:
    scales = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next((f"{number / scale:.4g} {unit}" for scale, unit in scales if number >= scale), f"{number} bytes")
