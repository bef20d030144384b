"""Functions for worker processes to run in tests of the executor: workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from nemotron4_data.failures import at


def square(number: int) -> int:
    """The square."""
    return number * number


def pid(_: int) -> int:
    """The process that runs it."""
    return os.getpid()


def die(_: int) -> None:
    """Be killed, as for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number: int) -> int:
    """Fail as a user's mistake does."""
    raise ValueError(f"number ({number}) must be another")


def interrupt(number: int) -> int:
    """Get the signal that Ctrl-C sends to the whole process group."""
    os.kill(os.getpid(), signal.SIGINT)
    return number


def write_pid_and_wait(path: Path) -> None:
    """Say who runs, then stay for long."""
    path.with_suffix(".partial").write_text(str(os.getpid()))
    path.with_suffix(".partial").rename(path)
    time.sleep(600)


def meet_on_ray(path: Path) -> str:
    """Wait until two of these run at the same time; returns the node of this one."""
    import ray

    path.touch()
    while len(list(path.parent.iterdir())) < 2:
        os.sched_yield()
    return str(ray.get_runtime_context().get_node_id())


def run_out_of_memory(place: str) -> None:
    """Fail for want of memory at a place."""
    with at(place):
        raise MemoryError
