"""The verbs of the train package, and the worker's entry point: `python -m nemotron4_train.cli RUN_DIR`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron4_config import Command, load_job, render_job

if TYPE_CHECKING:
    from nemotron4_train.checkpoints.export import ExportJob
    from nemotron4_train.job import TrainJob
    from nemotron4_train.launching.status import StatusJob
    from nemotron4_train.reporting.report import ReportJob

_RESOLVERS = {"of_start_from": "nemotron4_train.checkpoints.start_from:model_number"}
_IMPLIED = {"start_from": "model=from_directory"}
TRAIN = Command(
    job="nemotron4_train.job:TrainJob",
    run="nemotron4_train.cli:train",
    summary="Pretrain over a token timeline, or resume where a run stopped; preview it with `plan`",
    summarise_sweep="nemotron4_train.sweeps.table:summarise",
    run_jobs="nemotron4_train.launching.slurm_sweep:run_jobs",
    resolvers=_RESOLVERS,
    implied_choices=_IMPLIED,
)
PLAN = Command(
    job="nemotron4_train.plan.plan_job:PlanJob",
    run="nemotron4_train.plan.tables:show",
    summary="Show a training job before it runs: memory, step time, cost, timeline and epochs, and a picture of it",
    resolvers=_RESOLVERS,
    implied_choices=_IMPLIED,
)
EXPORT = Command(
    job="nemotron4_train.checkpoints.export:ExportJob",
    run="nemotron4_train.cli:export",
    summary="Turn a checkpoint into a Hugging Face directory",
)
REPORT = Command(
    job="nemotron4_train.reporting.report:ReportJob",
    run="nemotron4_train.cli:report",
    summary="Write a run's report.html and report.json; compare=[RUN,...] adds other runs",
)
STATUS = Command(
    job="nemotron4_train.launching.status:StatusJob",
    run="nemotron4_train.cli:status",
    summary="Show the state of runs: phase, tokens, loss, speed, time left, place in the queue",
)
CANCEL = Command(
    job="nemotron4_train.launching.status:CancelJob",
    run="nemotron4_train.launching.status:cancel",
    summary="Stop a run, on Slurm or on this machine; it saves first",
)


def train(job: TrainJob) -> float | None:
    """Launch a training run."""
    from nemotron4_train.launching.launch import launch

    return launch(job, render_job(job))


def export(job: ExportJob) -> None:
    """Export a run's checkpoint."""
    from nemotron4_train.checkpoints.export import export_checkpoint

    export_checkpoint(job, read_train_job(Path(job.run)))


def report(job: ReportJob) -> None:
    """Write a run's report."""
    from nemotron4_train.reporting.report import write_report

    compare = {Path(directory): read_train_job(Path(directory), "compare") for directory in job.compare}
    print(write_report(Path(job.run), read_train_job(Path(job.run)), compare))


def status(job: StatusJob) -> None:
    """Show the state of runs."""
    from nemotron4_train.launching.status import run_directories, show_status

    directories = run_directories(job)
    jobs: list[TrainJob | Exception] = []
    for directory in directories:
        try:
            jobs.append(read_train_job(directory))
        except (ValueError, OSError) as error:  # damaged or of another version: its other files still tell most
            jobs.append(error)
    show_status(directories, jobs)


def read_train_job(run_directory: Path, key: str = "run") -> TrainJob:
    """The job of a run directory. Raises ValueError, naming `key` or the file, when it is missing or invalid."""
    from nemotron4_train.job import TrainJob

    path = run_directory / "job.yaml"
    if not path.is_file():
        raise ValueError(f"{key} ({run_directory}): has no job.yaml; name a run directory such as runs/demo/latest")
    return load_job(path, TrainJob)


def worker(directory: str, leg: str = "0") -> None:
    """Run one rank of a leg; a user's mistake is printed on one line with status 2, as on the command line."""
    from nemotron4_train.stop_signal import StopSignal

    with StopSignal() as stop:  # first: importing torch takes seconds, in which a signal would kill
        from nemotron4_train.launching.environment import LAUNCHER_PID
        from nemotron4_train.launching.worker_process import settle

        run = Path(directory)
        try:
            settle()
            from torch.distributed.elastic.multiprocessing.errors import record

            from nemotron4_train.launching.foreign_launcher import watched
            from nemotron4_train.launching.worker import run_leg

            with watched(run):
                record(lambda: run_leg(read_train_job(run), run, int(leg), stop))()
        except (ValueError, OSError) as error:
            # Our own launcher prints the error that its ranks leave in a file, once.
            if LAUNCHER_PID not in os.environ or not Path(os.environ["TORCHELASTIC_ERROR_FILE"]).is_file():
                print(f"nemotron4 train: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from error


if __name__ == "__main__":
    worker(*sys.argv[1:])
