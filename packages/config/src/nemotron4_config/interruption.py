"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 as an exception in the main thread, so that staged output is removed at once.

Invariant: a command that a signal ended says so in one line and exits with 128 + the signal, whatever exception came
out of it: libraries turn an interruption into errors of their own. Code that ends in its own way, as training does,
takes the signals for as long as it runs.
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
"""A signal so soon after the first is the same one: `timeout` and terminals send it to process and group."""


class Interrupted(KeyboardInterrupt):
    """A signal came. Not KeyboardInterrupt itself: after that, CPython ends some processes by SIGINT all the same."""


class Interruption:
    """A context that raises Interrupted at a signal; those that the process was started to ignore stay ignored."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal that came."""
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
        if self.received is None:  # else the process is about to end, and the same signal may come once more
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted where a signal came and what it raised was swallowed."""
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


def saying_signals(command: str, run: Callable[[Interruption], int]) -> int:
    """The exit status of `run`; where a signal ended it, a line that says so and 128 + the signal."""
    with Interruption() as interruption:
        try:
            return run(interruption)
        except BaseException as error:
            if not interruption.ended_it(error):
                raise
    number = interruption.received or signal.SIGINT
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    with suppress(OSError):  # the terminal may be gone
        print(f"{command}: {how}; run the same command again to go on", file=sys.stderr, flush=True)
    return 128 + number
