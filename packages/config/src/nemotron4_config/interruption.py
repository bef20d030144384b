"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 as an exception in the main thread, so that staged output is removed at once.

Invariant: a command that a signal ended reports it in one line and exits with 128 + the signal, whatever exception
it raised: libraries turn an interruption into errors of their own. Code that stops in its own way, as training does,
handles the signals itself while it runs.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from nemotron4_common.signals import ENDING_SIGNALS

_SAME_SECONDS = 1.0
"""A signal this soon after the first is the same one: `timeout` and terminals send it to both process and group."""


class Interrupted(KeyboardInterrupt):
    """A signal arrived. A subclass, because after a plain KeyboardInterrupt CPython kills some processes by SIGINT."""


class Interruption:
    """A context that raises Interrupted at a signal; signals ignored when the process started stay ignored."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal that arrived."""
        self._at_seconds = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in ENDING_SIGNALS:
            previous = signal.getsignal(number)
            if previous not in (signal.SIG_IGN, None):
                self._previous[number] = previous
                signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.received is None:  # otherwise the process is about to end, and the same signal may come again
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted again if a signal arrived: a library may have swallowed the first one."""
        if self.received is not None:
            raise Interrupted

    def ended_it(self, error: BaseException) -> bool:
        """Whether a command ended in `error` because of a signal."""
        return self.received is not None or isinstance(error, KeyboardInterrupt)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and time.monotonic() < self._at_seconds + _SAME_SECONDS:
            return
        self.received, self._at_seconds = self.received or number, time.monotonic()
        raise Interrupted


def reporting_signals(command: str, run: Callable[[Interruption], int]) -> int:
    """Call `run` and return its exit status; if a signal ended it, print one line and return 128 + the signal."""
    with Interruption() as interruption:
        try:
            return run(interruption)
        except BaseException as error:
            if not interruption.ended_it(error):
                raise
    number = interruption.received or signal.SIGINT
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    with suppress(OSError):  # the terminal may be gone
        print(f"{command}: {how}; run the same command again to resume", file=sys.stderr, flush=True)
    return 128 + number
