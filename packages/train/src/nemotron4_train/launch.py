"""Start a run: check everything on this machine, make the run directory, start the workers, say how it ended.

One rank trains in this process. Several start through torch's elastic launcher, as one clean process tree a leg of the
run, each worker reading job.yaml; on Slurm the legs are submitted, and a worker that another launcher started (RANK is
set) joins what is there.
"""

from __future__ import annotations

import builtins
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nemotron4_data.system_errors import naming_place
from nemotron4_train import checkpoint
from nemotron4_train.afterwards import check_afterwards, run_afterwards
from nemotron4_train.campaign import leg_job, legs, legs_left
from nemotron4_train.job import TrainJob
from nemotron4_train.launcher_config import LauncherKind
from nemotron4_train.metrics import read_rows
from nemotron4_train.preflight import check_checkpoint, check_corpus, check_machine, num_threads
from nemotron4_train.run_directory import (
    RunRecord,
    choose_directory,
    create,
    exclusive,
    newest_step,
    note_start,
    read_record,
    record_failure,
    write_record,
)
from nemotron4_train.schedule import Timeline
from nemotron4_train.slurm import client
from nemotron4_train.slurm.submit import check_not_queued, submit_chain, write_scripts
from nemotron4_train.stop_signal import StopSignal, stop_status
from nemotron4_train.worker_process import LAUNCHER_PID

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig


_WAY_OUT = "mend that and run the same command again, which goes on from the last checkpoint"


def launch(job: TrainJob, job_yaml: str) -> float | None:
    """Run the job to its end, or hand it to Slurm; returns the final held-out bits per byte of a run that ended.

    Raises ValueError for what the user can mend, RuntimeError naming the rank that failed, SystemExit(75 or 130) when
    the run was stopped by a signal after saving, or before there was anything to save.
    """
    timeline = Timeline(job.schedule, job.trainer.max_steps)
    check_machine(job)
    check_afterwards(job)
    corpus = check_corpus(job)
    directory = choose_directory(job, timeline.num_steps)
    done_steps = check_checkpoint(job, corpus, directory, timeline)
    on_slurm, elsewhere = job.launcher.kind is LauncherKind.slurm, job.launcher.dry_run
    # `status` looks at the lock for a moment.
    with naming_place(directory, _WAY_OUT), exclusive(directory, wait_seconds=1.0):
        record = read_record(directory)
        if record is not None and not job.afterwards and _is_complete(record, job, timeline):
            print(f"run directory: {directory}: complete already, step {record.step}", file=sys.stderr)
            return record.objective
        if (on_slurm and not elsewhere) or ((directory / "slurm").is_dir() and client.is_available()):
            check_not_queued(directory)
        if job.resume != "auto":
            checkpoint.set_aside(directory, job.resume, done_steps)
        create(directory, job, job_yaml, timeline.num_steps, "queued" if on_slurm or elsewhere else "running")
        print(f"run directory: {directory}", file=sys.stderr, flush=True)
        try:
            with naming_place(directory, _WAY_OUT):
                if on_slurm or elsewhere:
                    _start_elsewhere(job, directory, done_steps)
                    return None
                _run_here(job, directory, done_steps)
        except BaseException as error:
            record_failure(directory, error)
            raise
    run_afterwards(job, directory)
    record = read_record(directory)
    assert record is not None
    return record.objective


def _is_complete(record: RunRecord, job: TrainJob, timeline: Timeline) -> bool:
    """Whether there is nothing left to do: only a job that names its run.dir comes back to a complete run."""
    whole = record.state == "complete" and record.step >= timeline.num_steps
    return job.resume == "auto" and whole and record.job_digest == job.digest()


def _start_elsewhere(job: TrainJob, directory: Path, done_steps: int) -> None:
    """Submit to Slurm, or say what would start the workers."""
    if job.launcher.kind is LauncherKind.slurm:
        scripts = write_scripts(job, directory, done_steps)
        if job.launcher.dry_run:
            print("\n".join(f"# {script.path}\n{script.path.read_text()}" for script in scripts))
        else:
            submit_chain(job, directory, scripts)
        return
    for number, leg in enumerate(legs(job)):
        nodes = leg.topology.num_nodes
        meeting = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint $HOST:29500" if nodes > 1 else "--standalone"
        worker = shlex.join(("-m", "nemotron4_train.cli", str(directory.resolve()), str(number)))
        print(f"torchrun {meeting} --nproc-per-node {leg.topology.num_ranks_per_node} {worker}")


def _run_here(job: TrainJob, directory: Path, done_steps: int) -> None:
    """Train the legs that are not done, one after the other."""
    chain = legs(job)
    if len(chain) == 1 and chain[0].topology.num_ranks == 1:
        import torch

        with StopSignal() as stop:
            torch.set_num_threads(num_threads(job))
            run_worker(leg_job(job, chain[0]), directory, stop)
        return
    for number, leg in legs_left(job, done_steps):
        note_start(directory)
        _launch_workers(leg_job(job, leg), directory, number)


def run_leg(job: TrainJob, directory: Path, number: int, stop: StopSignal) -> None:
    """Train one leg as one rank of what a launcher started; what `run_worker` raises.

    A run that was given a checkpoint, or none, goes on from its own once it has any.
    """
    chain = legs(job)
    if not 0 <= number < len(chain):
        raise ValueError(f"leg ({number}): {directory} has {len(chain)}, counted from 0")
    asked, started = chain[number].topology.num_ranks, int(os.environ.get("WORLD_SIZE", "1"))
    if asked != started:
        raise ValueError(f"topology ({asked} ranks): the launcher started {started}; start as many")
    again = number > 0 or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if again and newest_step(directory):
        job = replace(job, resume="auto")
    run_worker(leg_job(job, chain[number]), directory, stop)


def run_worker(job: TrainJob, directory: Path, stop: StopSignal) -> None:
    """Train as one rank; rank 0 records how it ended. Raises SystemExit when stopped by a signal."""
    import torch.distributed as dist

    from nemotron4_train.lightning.fit import fit
    from nemotron4_train.report import write_report

    try:
        with naming_place(directory, _WAY_OUT):
            result = fit(job, directory, stop)
    except SystemExit as error:  # what Lightning makes of a second Ctrl-C
        raise KeyboardInterrupt from error
    if checkpoint.rank() == 0:
        record = read_record(directory)
        assert record is not None
        done = "complete" if result.step >= record.num_steps else "queued"
        record.state = done if result.stopped_by is None else "stopped"
        record.step = result.step
        record.objective = result.objective if result.objective is not None else _last_objective(directory)
        write_record(directory, record)
        try:
            write_report(directory, job)
        except (OSError, ValueError) as error:  # of a full disk or a damaged file: the run has ended well all the same
            print(f"{directory}: report.html was not written ({error})", file=sys.stderr)
    if dist.is_initialized():
        dist.barrier()  # launchers end the other ranks when one exits with a status that is not 0
    if result.stopped_by is not None:
        if checkpoint.rank() == 0:
            print(f"stopped after step {result.step}, checkpoint saved; run the same command to go on", file=sys.stderr)
        raise SystemExit(stop_status(result.stopped_by))


def _last_objective(directory: Path) -> float | None:
    """Of a run that had nothing left to train: it was killed after its last checkpoint."""
    rows = read_rows(directory / "validation.csv")
    return float(rows[-1]["overall"]) if rows else None


def _launch_workers(job: TrainJob, directory: Path, leg: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it tells, `_ending` says
    config = _launch_config(directory, job.topology.num_ranks)
    variables = {"OMP_NUM_THREADS": str(num_threads(job)), LAUNCHER_PID: str(os.getpid())}
    if sys.platform == "linux":  # gloo as well takes no notice of the machine's own name
        variables["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    with _environment(**variables), StopSignal(_send_to_workers) as stop, TemporaryDirectory() as log_dir:
        config.logs_specs = DefaultLogsSpecs(log_dir=log_dir)
        try:
            elastic_launch(config, sys.executable)("-m", "nemotron4_train.cli", str(directory), str(leg))
        except ChildFailedError as error:
            raise _ending(directory, error.failures, stop.received) from None


def _launch_config(directory: Path, num_ranks: int) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=directory.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # the machine's own name may not resolve
        max_restarts=0,
        monitor_interval=0.2,
        # Of the others it would tell whole process groups, data loaders too, and kill who still saves after 30 seconds.
        signals_to_handle="SIGHUP,SIGQUIT",
    )


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
    of_user = {rank: failure for rank, failure in failures.items() if failure.exitcode == 2}
    rank, failure = _first_failure(of_user or failures)
    if of_user:
        kind, _, text = _message(failure).partition(": ")
        of_system = issubclass(getattr(builtins, kind, Exception), OSError)
        return (OSError if of_system else ValueError)(text or f"{directory}: a worker failed; its own line is above")
    return RuntimeError(f"{directory}: {_how_it_failed(rank, failure)}")


def _first_failure(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that failed of itself: the others lose their connection to it, or are ended by the launcher."""

    def order(item: tuple[int, ProcessFailure]) -> tuple[int, int]:
        failure = item[1]
        if failure.exitcode < 0 and -failure.exitcode not in (signal.SIGTERM, signal.SIGABRT):
            return 0, 0
        recorded = os.path.isfile(failure.error_file)
        return (1, os.stat(failure.error_file).st_mtime_ns) if recorded else (2, 0)

    return min(failures.items(), key=order)


def _how_it_failed(rank: int, failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    message = _message(failure)
    return f"rank {rank} failed: {message}" if message else f"rank {rank} exited with {failure.exitcode}"


def _message(failure: ProcessFailure) -> str:
    """What a rank left behind, as `OSError: text`; empty when it could not."""
    if not os.path.isfile(failure.error_file):
        return ""
    return " ".join(str(failure.error_file_data["message"]["message"]).split())


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables that workers inherit, for as long as it takes: the next leg's differ."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
