"""Start a run: check everything on this machine, make the run directory, start the workers, say how it ended.

One rank trains in this process. Several start through torch's elastic launcher, as one clean process tree a run, each
worker reading job.yaml; under an outer launcher (RANK is set) this process is one of the workers already.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nemotron4_train.job import TrainJob
from nemotron4_train.metrics import read_rows
from nemotron4_train.preflight import check_checkpoint, check_corpus, check_machine
from nemotron4_train.run_directory import RunRecord, choose_directory, create, exclusive, read_record, write_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.stop_signal import StopSignal, stop_status
from nemotron4_train.worker_process import LAUNCHER_PID

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def launch(job: TrainJob, job_yaml: str) -> float | None:
    """Run the job to its end; returns the final held-out bits per byte.

    Raises ValueError for what the user can mend, RuntimeError naming the rank that failed, SystemExit(75 or 130) when
    the run was stopped by a signal after saving, or before there was anything to save.
    """
    timeline = Timeline(job.schedule, job.trainer.max_steps)
    check_machine(job)
    corpus = check_corpus(job)
    directory = choose_directory(job, timeline.num_steps)
    check_checkpoint(job, corpus, directory, timeline)
    with exclusive(directory):
        record = read_record(directory)
        if job.resume == "auto" and record is not None and _is_complete(record, job, timeline):
            print(f"run directory: {directory}: complete already, step {record.step}", file=sys.stderr)
            return record.objective
        create(directory, job, job_yaml, timeline.num_steps)
        print(f"run directory: {directory}", file=sys.stderr, flush=True)
        try:
            if job.topology.num_ranks == 1:
                with StopSignal() as stop:
                    _set_threads(job)
                    run_worker(job, directory, stop)
            else:
                _launch_workers(job, directory)
        except BaseException as error:
            _record_failure(directory, error)
            raise
    record = read_record(directory)
    assert record is not None
    return record.objective


def _is_complete(record: RunRecord, job: TrainJob, timeline: Timeline) -> bool:
    """Whether there is nothing left to do: only a job that names its run.dir comes back to a complete run."""
    whole = record.state == "complete" and record.step >= timeline.num_steps
    return whole and record.job_digest == job.digest()


def run_worker(job: TrainJob, directory: Path, stop: StopSignal) -> None:
    """Train as one rank; rank 0 records how it ended. Raises SystemExit when stopped by a signal."""
    import torch.distributed as dist

    from nemotron4_train.lightning.fit import fit, rank
    from nemotron4_train.report import write_report

    try:
        result = fit(job, directory, stop)
    except SystemExit as error:  # what Lightning makes of a second Ctrl-C
        raise KeyboardInterrupt from error
    if rank() == 0:
        record = read_record(directory)
        assert record is not None
        record.state = "complete" if result.stopped_by is None else "stopped"
        record.step = result.step
        record.objective = result.objective if result.objective is not None else _last_objective(directory)
        write_record(directory, record)
        write_report(directory, job)
    if dist.is_initialized():
        dist.barrier()  # launchers end the other ranks when one exits with a status that is not 0
    if result.stopped_by is not None:
        if rank() == 0:
            print(f"stopped after step {result.step}, checkpoint saved; run the same command to go on", file=sys.stderr)
        raise SystemExit(stop_status(result.stopped_by))


def _last_objective(directory: Path) -> float | None:
    """Of a run that had nothing left to train: it was killed after its last checkpoint."""
    rows = read_rows(directory / "validation.csv")
    return float(rows[-1]["overall"]) if rows else None


def _launch_workers(job: TrainJob, directory: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "RANK" in os.environ:
        raise ValueError("RANK is set: start workers that a launcher made with `python -m nemotron4_train.cli RUN_DIR`")
    if job.topology.num_nodes > 1:
        raise ValueError(
            f"topology.num_nodes ({job.topology.num_nodes}): launcher=local starts the ranks of one machine only"
        )
    _set_threads(job)
    os.environ[LAUNCHER_PID] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.topology.num_ranks,
        run_id=directory.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        # Of the others it would tell whole process groups, data loaders too, and kill who still saves after 30 seconds.
        signals_to_handle="SIGHUP,SIGQUIT",
    )
    with StopSignal(_send_to_workers) as stop, TemporaryDirectory() as log_dir:
        config.logs_specs = DefaultLogsSpecs(log_dir=log_dir)
        try:
            elastic_launch(config, sys.executable)("-m", "nemotron4_train.cli", str(directory))
        except ChildFailedError as error:
            raise _ending(directory, error.failures, stop.received) from None


def _send_to_workers(number: int) -> None:
    """Pass a signal on to the ranks. Raises SystemExit when there are none yet."""
    workers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    if not workers:
        raise SystemExit(stop_status(number))
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)


def _ending(directory: Path, failures: dict[int, ProcessFailure], signalled: int | None) -> BaseException:
    """What to raise for ranks that did not end with status 0."""
    record = read_record(directory)
    statuses = {failure.exitcode for failure in failures.values()}
    if record is not None and record.state == "stopped":
        return SystemExit(max(statuses))
    if signalled is not None and -signalled in statuses and max(statuses) < 0:  # it came before they all listened
        return SystemExit(stop_status(signalled))
    if 2 in statuses:
        return ValueError(f"{directory}: a worker refused its input; its own line is above")
    return RuntimeError(f"{directory}: {_first_failure(failures)}")


def _first_failure(failures: dict[int, ProcessFailure]) -> str:
    """The rank that failed of itself, and how: the others lose their connection to it, or are ended by the launcher."""

    def order(item: tuple[int, ProcessFailure]) -> tuple[int, int]:
        failure = item[1]
        if failure.exitcode < 0 and -failure.exitcode not in (signal.SIGTERM, signal.SIGABRT):
            return 0, 0
        recorded = os.path.isfile(failure.error_file)
        return (1, os.stat(failure.error_file).st_mtime_ns) if recorded else (2, 0)

    rank, failure = min(failures.items(), key=order)
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    if os.path.isfile(failure.error_file):
        return f"rank {rank} failed: {failure.error_file_data['message']['message']}"
    return f"rank {rank} exited with {failure.exitcode}"


def _set_threads(job: TrainJob) -> None:
    """Share the cores among this machine's ranks, unless told otherwise: oversubscribed OpenMP pools fight."""
    import torch

    cores = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    threads = job.launcher.num_threads or max(1, cores // job.topology.num_ranks_per_node)
    if job.topology.num_ranks > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    else:
        torch.set_num_threads(threads)


def _record_failure(directory: Path, error: BaseException) -> None:
    record = read_record(directory) or RunRecord(job_digest="")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        record.state = "stopped"
    else:
        record.state, record.error = "failed", " ".join(str(error).split()) or type(error).__name__
    write_record(directory, record)
