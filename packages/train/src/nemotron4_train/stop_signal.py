"""SIGTERM, SIGUSR1 and Ctrl-C, kept until a run can stop: training asks after each step, where the ranks agree.

Imports nothing heavy, so that it listens before the seconds that those imports take.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from nemotron4_common.signals import STOP_SIGNALS


class StopSignal:
    """A context that listens; `pass_on` is told of each signal. A second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self, pass_on: Callable[[int], None] = lambda number: None) -> None:
        self.received: int | None = None
        self._pass_on = pass_on
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, from whoever took them since."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._pass_on(number)


def leave_stop_signals(worker: int) -> None:
    """In a data loader's worker, which gets what its process group gets: it goes on until training stops."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
