"""The signals that end a command or stop a run, and a way to delay them for a moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that end a command."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that tell a run or a sweep to save and stop."""


def stop_status(number: int) -> int:
    """Exit status of a run or sweep that a signal stopped: 130 for Ctrl-C, otherwise 75 (requeue)."""
    return 130 if number == signal.SIGINT else 75


class HeldSignals:
    """A context that delays ENDING_SIGNALS, so that none arrives between two renames.

    `let_through` handles them for a while. Does nothing outside the main thread. Signal masks would not help: the
    kernel then delivers the signal to another thread, and Python still handles it in the main one.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> HeldSignals:
        self._hold()
        return self

    def __exit__(self, *_: object) -> None:
        self._answer()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Handle the signals that wait and, within the context, those that arrive."""
        self._answer()
        try:
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING_SIGNALS:
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None, self._keep):
                    self._previous[number] = handler
                    signal.signal(number, self._keep)

    def _answer(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        while self._waiting:
            signal.raise_signal(self._waiting.pop(0))

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._waiting.append(number)
