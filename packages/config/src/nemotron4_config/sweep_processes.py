"""Jobs of a sweep as processes: at most `max_at_once` at a time, each in its own session, its output in output.log.

Invariants: a signal to the sweep is passed on to every running job, no further job starts, and the sweep waits for the
jobs, since they save first; the main thread starts jobs, because a job dies with the thread that started it.
"""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from nemotron4_common.signals import STOP_SIGNALS
from nemotron4_config.command import Command

_POLL_SECONDS = 0.05


@dataclass
class _Child:
    index: int
    process: subprocess.Popen[bytes]
    log: BinaryIO
    signalled: bool = False


class SweepProcesses:
    """Runs jobs; calls `started(index)` and `ended(index, exit status)` for each."""

    def __init__(
        self, command: Command, max_at_once: int, started: Callable[[int], None], ended: Callable[[int, int], None]
    ) -> None:
        self._command, self._max_at_once, self._started, self._ended = command, max_at_once, started, ended
        self._running: list[_Child] = []
        self.received: int | None = None
        """The signal that stopped the sweep."""

    def run(self, directories: Sequence[Path]) -> None:
        """Run the jobs whose files are in these directories, in order, until all have ended or a signal stops them."""
        at_once = min(self._max_at_once, len(directories))
        waiting = list(enumerate(directories))
        previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        show = _copy_to_terminal() if at_once == 1 else None
        try:
            while self._running or (waiting and self.received is None):
                while waiting and self.received is None and len(self._running) < at_once:
                    self._start(*waiting.pop(0), _environment(at_once))
                time.sleep(_POLL_SECONDS)
                self._reap(show)
        finally:
            for child in self._running:  # only a bug in this program leaves any
                child.process.kill()
                child.process.wait()
                child.log.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, index: int, directory: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "nemotron4_config.sweep_job", self._command.job, self._command.run]
        log = directory / "output.log"
        self._started(index)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*command, str(directory), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # otherwise the terminal's Ctrl-C would also reach a job's data loaders
            )
        child = _Child(index, process, open(log, "rb"))  # noqa: SIM115 (read until the job ends)
        self._running.append(child)
        if self.received is not None and not child.signalled:  # the signal came before the child was listed
            process.send_signal(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for child in self._running:
            child.signalled = True
            child.process.send_signal(number)

    def _reap(self, show: Callable[[bytes], None] | None) -> None:
        for child in list(self._running):
            status = child.process.poll()
            if show is not None:
                show(child.log.read())
            if status is not None:
                self._running.remove(child)
                child.log.close()
                self._ended(child.index, status)


def _environment(at_once: int) -> dict[str, str]:
    """The jobs' environment: cores are divided among concurrent jobs unless the user has set OMP_NUM_THREADS."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // at_once)))
    return environment


def _copy_to_terminal() -> Callable[[bytes], None]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(output: bytes) -> None:
        sys.stdout.write(decoder.decode(output))
        sys.stdout.flush()

    return show
