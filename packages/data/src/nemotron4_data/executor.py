"""Where the tasks of `nemotron4 prepare` run: processes on this machine, or an existing Ray cluster.

Invariant: results come in the order of the tasks, and a bounded number of tasks is in flight, so that memory does not
grow with their number. No two tasks write to the same path (`staging.task_directory`), so running one twice is safe.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nemotron4_common.extras import check_installed

from .prepare_job import ExecutorConfig, ExecutorKind

T = TypeVar("T")
R = TypeVar("R")
_AHEAD_PER_WORKER = 4


class Executor(Protocol):
    """Runs a function over tasks."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of `tasks`. OSError, one line, when a worker process was killed."""
        ...

    def rest(self) -> None:
        """Free the memory of idle workers on this machine; the next task starts new ones."""
        ...


class _Task(Protocol):
    @property
    def output(self) -> Path: ...


Task = TypeVar("Task", bound=_Task)


def run_missing(executor: Executor, function: Callable[[Task], Any], tasks: Iterable[Task]) -> Iterator[None]:
    """Run the tasks whose directories are missing; yields once per task, in order, when its directory exists."""
    asked: list[bool] = []

    def missing() -> Iterator[Task]:
        for task in tasks:
            asked.append(not task.output.is_dir())
            if asked[-1]:
                yield task

    answered = 0
    for _ in executor.map(function, missing()):
        # First the tasks before it whose directories were already there.
        while not asked[answered]:
            answered += 1
            yield
        answered += 1
        yield
    for _ in asked[answered:]:
        yield


@contextmanager
def open_executor(config: ExecutorConfig) -> Iterator[Executor]:
    """The executor of a job; its workers end with the context. ValueError if Ray is not installed or not reachable."""
    executor = RayExecutor(config) if config.kind is ExecutorKind.ray else LocalExecutor(config.num_workers)
    try:
        yield executor
    except BaseException:
        executor.abort()
        raise
    finally:
        executor.close()


class LocalExecutor:
    """A pool of processes, started at the first task and kept until `rest`; a single worker is this process itself."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._leash: Connection | None = None

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of `tasks`."""
        if self._num_workers == 1:
            for task in tasks:  # not `map`, which would take a StopIteration from a task for the end of the tasks
                yield function(task)
            return
        pool = self._pool = self._pool or self._start()
        in_flight: deque[Future[R]] = deque()
        try:
            for task in tasks:
                with _ctrl_c_held():
                    in_flight.append(pool.submit(function, task))
                if len(in_flight) >= self._num_workers * _AHEAD_PER_WORKER:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process was killed, perhaps for lack of memory: lower executor.num_workers and rerun"
            ) from error
        finally:
            for future in in_flight:
                future.cancel()

    def rest(self) -> None:
        """End the idle workers."""
        self.close()

    def abort(self) -> None:
        """Kill the running tasks."""
        if self._leash is not None:
            self._leash.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self.abort()

    def _start(self) -> ProcessPoolExecutor:
        resource_tracker.ensure_running()  # now, because starting it unblocks Ctrl-C, and workers start with it blocked
        context = multiprocessing.get_context("spawn")
        worker_end, self._leash = context.Pipe(duplex=False)
        return ProcessPoolExecutor(self._num_workers, context, initializer=_start_worker, initargs=(worker_end,))


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Block Ctrl-C, also for processes started meanwhile, which inherit the signal mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(leash: Connection) -> None:
    # Ctrl-C reaches the whole process group; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()


def _end_with_parent(leash: Connection) -> None:
    # The other end closes when the parent aborts or is killed; without it, the pool would wait for tasks forever.
    with suppress(EOFError):
        leash.recv()
    os._exit(1)


class RayExecutor:
    """Runs tasks on an existing Ray cluster whose nodes have this package and see the same files."""

    def __init__(self, config: ExecutorConfig) -> None:
        check_installed("executor.kind (ray): needs Ray", ("ray",), "nemotron4-data[ray]")
        ray: Any = importlib.import_module("ray")
        self._ray = ray
        try:
            if config.address != "auto":  # Ray itself would try for minutes
                socket.create_connection(split_address(config.address), timeout=10).close()
            ray.init(address=config.address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"executor.address ({config.address}): is not a running Ray cluster; start one with `ray start --head`"
            ) from error
        self._num_workers = config.num_workers or int(ray.cluster_resources().get("CPU", 1))

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of `tasks`; Ray runs a task again when its node is lost."""
        # Nodes may have more CPUs than num_workers, so the number of tasks in flight is limited here.
        remote = self._ray.remote(num_cpus=1)(function_of_task)
        shared = self._ray.put(function)
        in_flight: deque[Any] = deque()
        for task in tasks:
            in_flight.append(remote.remote(shared, task))
            if len(in_flight) >= self._num_workers:
                yield self._result(in_flight.popleft())
        while in_flight:
            yield self._result(in_flight.popleft())

    def rest(self) -> None:
        """Do nothing: the cluster manages its own workers."""

    def abort(self) -> None:
        """Do nothing: `close` leaves the cluster, which ends the running tasks."""

    def close(self) -> None:
        """Leave the cluster, which then drops the tasks that this driver still had running."""
        self._ray.shutdown()

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise OSError(f"a Ray worker was lost ({reason}): lower executor.num_workers and rerun") from error


def split_address(address: str) -> tuple[str, int]:
    """Host and port. ValueError without a port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return host, int(port)


def function_of_task(function: Callable[[T], R], task: T) -> R:
    """What a Ray worker runs: the function is sent once, the tasks one by one."""
    return function(task)
