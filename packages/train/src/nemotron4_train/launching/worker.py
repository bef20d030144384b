"""One rank of a run, from its job to its record, whatever started it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from nemotron4_common.signals import stop_status
from nemotron4_common.system_errors import naming_place
from nemotron4_train.job import TrainJob
from nemotron4_train.launching.gpu_limits import check_gpu_here
from nemotron4_train.launching.legs import leg_job, legs
from nemotron4_train.ranks import rank
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.run_directory import RunState, newest_step, read_record, write_record
from nemotron4_train.stop_signal import StopSignal
from nemotron4_train.topology import Device

WAY_OUT = "fix that and run the same command again, which resumes from the last checkpoint"


def run_leg(job: TrainJob, directory: Path, number: int, stop: StopSignal) -> None:
    """Train one leg, as one of the ranks that a launcher started; raises what `run_worker` raises.

    A run started with resume=PATH or resume=never resumes from its own checkpoints once it has any.
    """
    chain = legs(job)
    if not 0 <= number < len(chain):
        raise ValueError(f"leg ({number}): {directory} has only {len(chain)}, counted from 0")
    asked, started = chain[number].topology.num_ranks, int(os.environ.get("WORLD_SIZE", "1"))
    if asked != started:
        raise ValueError(f"topology ({asked} ranks): the launcher started {started}; start that many ranks")
    if chain[number].topology.device is Device.cuda:
        check_gpu_here(job, chain[number], int(os.environ.get("LOCAL_RANK", "0")))
    again = number > 0 or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if again and newest_step(directory):
        job = replace(job, resume="auto")
    run_worker(leg_job(job, chain[number]), directory, stop)


def run_worker(job: TrainJob, directory: Path, stop: StopSignal) -> None:
    """Train as one rank; rank 0 records how it ended. Raises SystemExit when stopped by a signal."""
    import torch.distributed as dist

    from nemotron4_train.lightning.fit import fit
    from nemotron4_train.reporting.report import write_report

    try:
        with naming_place(directory, WAY_OUT):
            result = fit(job, directory, stop)
    except SystemExit as error:  # Lightning raises it on a second Ctrl-C
        raise KeyboardInterrupt from error
    if rank() == 0:
        record = read_record(directory)
        assert record is not None
        done = RunState.complete if result.step >= record.num_steps else RunState.queued
        record.state = done if result.stopped_by is None else RunState.stopped
        record.step = result.step
        record.objective = result.objective if result.objective is not None else _last_objective(directory)
        write_record(directory, record)
        try:
            write_report(directory, job)
        except (OSError, ValueError) as error:  # a full disk or a damaged file; the run itself ended well
            print(f"{directory}: report.html was not written ({error})", file=sys.stderr)
    if dist.is_initialized():
        dist.barrier()  # launchers kill the other ranks when one exits with a nonzero status
    if result.stopped_by is not None:
        if rank() == 0:
            print(
                f"stopped after step {result.step}, checkpoint saved; run the same command to resume", file=sys.stderr
            )
        raise SystemExit(stop_status(result.stopped_by))


def _last_objective(directory: Path) -> float | None:
    """The objective of a run with nothing left to train: it was killed after its last checkpoint."""
    rows = read_rows(directory / "validation.csv")
    return float(rows[-1]["overall"]) if rows else None
