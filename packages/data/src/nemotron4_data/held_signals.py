"""Signals that wait for the end of a few steps, so that none of them comes between a rename and the next.

Masks would not do: the kernel then gives the signal to another thread, and Python answers it in the main one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class HeldSignals:
    """A context in which these signals wait; `let_through` answers them meanwhile. Nothing outside the main thread."""

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
        """Answer those that wait, and what comes."""
        self._answer()
        try:
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
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
