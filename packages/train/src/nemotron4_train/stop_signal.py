"""SIGTERM, SIGUSR1 and Ctrl-C, held until a run can stop: training checks after each step, where the ranks agree.

Imports nothing heavy, so that it can listen during the seconds that heavy imports take.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from nemotron4_common.signals import STOP_SIGNALS


class StopSignal:
    """A context that catches the signals; `pass_on` gets each. A second Ctrl-C raises KeyboardInterrupt at once."""

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
        """Install the handlers, in place of any installed meanwhile."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._pass_on(number)


def ignore_stop_signals(worker: int) -> None:
    """In a data loader's worker, which gets its process group's signals: it must continue until training stops."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
