"""Start several ranks on this machine with torch's elastic launcher, as one process tree, and report how they ended."""

from __future__ import annotations

import builtins
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nemotron4_common.signals import stop_status
from nemotron4_train.job import TrainJob
from nemotron4_train.launching.environment import LAUNCHER_PID
from nemotron4_train.launching.preflight import num_threads
from nemotron4_train.run_directory import RunState, read_record
from nemotron4_train.stop_signal import StopSignal

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig


def launch_workers(job: TrainJob, directory: Path, leg: int) -> None:
    """Start the ranks of one leg and wait for them; raises what `_ending` makes of a failure."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `_ending` reports the same
    config = _launch_config(directory, job.topology.num_ranks)
    variables = {"OMP_NUM_THREADS": str(num_threads(job)), LAUNCHER_PID: str(os.getpid())}
    if sys.platform == "linux":  # so gloo does not resolve the machine's own name either
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
        # Others it would send to whole process groups, data loaders included, and kill ranks still saving after 30 s.
        signals_to_handle="SIGHUP,SIGQUIT",
    )


def _send_to_workers(number: int) -> None:
    """Forward a signal to the ranks. Raises SystemExit when there are none yet."""
    workers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    if not workers:
        raise SystemExit(stop_status(number))
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)


def _ending(directory: Path, failures: dict[int, ProcessFailure], signalled: int | None) -> BaseException:
    """The exception to raise when ranks exited with a nonzero status."""
    record = read_record(directory)
    statuses = {failure.exitcode for failure in failures.values()}
    if record is not None and record.state is RunState.stopped:
        return SystemExit(max(statuses))
    if signalled is not None and -signalled in statuses and max(statuses) < 0:  # it came before all had handlers
        return SystemExit(stop_status(signalled))
    user_errors = {rank: failure for rank, failure in failures.items() if failure.exitcode == 2}
    rank, failure = _first_failure(user_errors or failures)
    if user_errors:
        kind, _, text = _message(failure).partition(": ")
        is_os_error = issubclass(getattr(builtins, kind, Exception), OSError)
        return (OSError if is_os_error else ValueError)(text or f"{directory}: a worker failed; its error is above")
    return RuntimeError(f"{directory}: {_how_it_failed(rank, failure)}")


def _first_failure(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that failed first: the others lose their connection to it, or the launcher terminates them."""

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
    return f"rank {rank} failed: {message}" if message else f"rank {rank} exited with status {failure.exitcode}"


def _message(failure: ProcessFailure) -> str:
    """The error that a rank recorded, as `OSError: text`; empty if it recorded none."""
    if not os.path.isfile(failure.error_file):
        return ""
    return " ".join(str(failure.error_file_data["message"]["message"]).split())


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for workers to inherit, and restore them afterwards: the next leg's differ."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
