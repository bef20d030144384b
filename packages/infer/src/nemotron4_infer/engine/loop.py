"""The engine's thread: commands in, Deltas out.

Invariant: one thread alone touches the core. A fault in a step ends the requests of that step; the thread goes on.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nemotron4_infer.engine.core import Engine, QueueFullError
from nemotron4_infer.engine.request import Delta, Request

OnDelta = Callable[[Delta], None]
"""Called in the engine's thread; it must not block, and must not raise."""


@dataclass(frozen=True)
class Health:
    """Whether the engine answers."""

    is_alive: bool
    """False if the thread has ended, hangs in a step, or two steps in a row failed."""
    seconds_since_step: float
    """Since the thread last finished a step or found nothing to do."""
    last_error: str | None
    """One line on the last fault in a step; None if there was none."""


class EngineThread:
    """Runs an engine. Its methods may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listeners: dict[int, OnDelta] = {}
        self._numbers: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._next, self._lock, self._stopping = 0, threading.Lock(), False
        self._last_step = time.monotonic()
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_delta: OnDelta) -> int:
        """Queue a request; returns a handle for `cancel`. ValueError as `Engine.check`, QueueFullError at the limit."""
        self.engine.check(request)
        if self._stopping:
            raise QueueFullError
        with self._lock:
            handle, self._next = self._next, self._next + 1
        self._commands.put(lambda: self._add(handle, request, on_delta))
        return handle

    def cancel(self, handle: int) -> None:
        """End a request; its listener may still get Deltas that are under way."""
        self._commands.put(lambda: self._cancel(handle))

    def health(self) -> Health:
        """Whether the engine answers."""
        return Health(self._thread.is_alive(), time.monotonic() - self._last_step, self._last_error)

    def drain(self, seconds: float) -> bool:
        """Refuse new requests, wait for those that run, at most `seconds`; returns whether all ended."""
        self._stopping = True
        deadline = time.monotonic() + seconds
        while self._listeners and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._listeners

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self._commands.put(self._leave)
        self._thread.join()

    def _leave(self) -> None:
        raise SystemExit

    def _add(self, handle: int, request: Request, on_delta: OnDelta) -> None:
        number = self.engine.add(request)
        self._numbers[handle] = number
        self._listeners[number], self._left[number] = on_delta, request.choices

    def _cancel(self, handle: int) -> None:
        number = self._numbers.pop(handle, None)
        if number is not None:
            self.engine.cancel(number)
            self._listeners.pop(number, None)

    def _run(self) -> None:
        while True:
            try:
                while not self._commands.empty() or not self.engine.has_work:
                    self._commands.get()()
                for delta in self.engine.step():
                    listener = self._listeners.get(delta.request)
                    if listener is not None:
                        listener(delta)
                    if delta.finish is not None:
                        self._left[delta.request] -= 1
                        if self._left[delta.request] == 0:
                            del self._left[delta.request], self._listeners[delta.request]
                self._last_step = time.monotonic()
            except SystemExit:
                return
