"""The engine's thread: commands in, Deltas out.

Invariant: one thread alone touches the core. Every request that `submit` took ends for its listener: by a last Delta of
each choice, by `cancel`, or because the listener raised. Nothing of it is kept after that.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from nemotron4_infer.engine.core import Engine, QueueFullError
from nemotron4_infer.engine.request import Delta, FinishReason, Request
from nemotron4_infer.engine.statistics import Statistics

OnDelta = Callable[[Delta], None]
"""Called in the engine's thread; it must not block. If it raises, its request is cancelled."""

HANG_SECONDS = 120.0
"""A step that takes longer is taken to hang."""

_log = logging.getLogger(__name__)


class StoppedError(QueueFullError):
    """The engine drains, or has ended."""


@dataclass(frozen=True)
class Health:
    """Whether the engine answers."""

    is_alive: bool
    """False if the thread has ended, hangs in a step, or two steps in a row failed."""
    seconds_since_step: float
    """Since the thread last finished a step; 0 while it has nothing to do."""
    last_error: str | None
    """One line on the last fault in a step; None if there was none."""


@dataclass
class _Listener:
    on_delta: OnDelta
    choices_left: set[int]
    submitted: float
    queued_seconds: dict[int, float] = field(default_factory=dict)
    """By choice, until its first Delta is delivered."""


class EngineThread:
    """Runs an engine. Its methods may be called from any thread; the engine itself must no longer be used."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listeners: dict[int, _Listener] = {}
        self._lock = threading.Condition()
        # Under the lock: what has been promised and has not ended, in sequences.
        self._next, self._num_open, self._is_stopping = 0, 0, False
        self._most_open = engine.config.max_running + engine.config.max_waiting
        self._statistics = engine.statistics()
        self._is_idle, self._last_step = True, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_delta: OnDelta) -> int:
        """Queue a request; returns a handle for `cancel`, which is also the number in its Deltas.

        ValueError as `Engine.check`; QueueFullError at the limit; StoppedError when it drains or has ended.
        """
        self.engine.check(request)
        with self._lock:
            if self._is_stopping or not self._thread.is_alive():
                raise StoppedError
            if self._num_open + request.choices > self._most_open:
                raise QueueFullError
            self._num_open += request.choices
            handle, self._next = self._next, self._next + 1
            listener = _Listener(on_delta, set(range(request.choices)), time.monotonic())
            self._commands.put(lambda: self._add(handle, request, listener))
        return handle

    def cancel(self, handle: int) -> None:
        """End a request; its listener may still get Deltas that are under way. One that is over is ignored."""
        self._commands.put(lambda: self._cancel(handle))

    def health(self) -> Health:
        """Whether the engine answers."""
        seconds = 0.0 if self._is_idle else time.monotonic() - self._last_step
        statistics = self._statistics
        is_alive = self._thread.is_alive() and seconds < HANG_SECONDS and statistics.failed_steps < 2
        return Health(is_alive, seconds, statistics.last_error)

    def statistics(self) -> Statistics:
        """`Engine.statistics` as of the last step."""
        return self._statistics

    def drain(self, seconds: float) -> bool:
        """Refuse new requests, wait for those that run, at most `seconds`; returns whether all ended."""
        with self._lock:
            self._is_stopping = True
            return self._lock.wait_for(lambda: self._num_open == 0 or not self._thread.is_alive(), seconds)

    def close(self) -> None:
        """End the thread after the step that it computes, and the engine; requests that still run end as cancelled.

        A step that hangs is left behind: the thread does not keep the process from ending.
        """
        with self._lock:
            self._is_stopping = True
        self._commands.put(_leave)
        self._thread.join(HANG_SECONDS)
        if not self._thread.is_alive():
            self.engine.close()

    def _run(self) -> None:
        last = Delta(request=0, finish=FinishReason.error, error="the engine's thread ended")
        try:
            while True:
                self._turn()
        except _LeaveError:
            last = Delta(request=0, finish=FinishReason.cancelled)
        finally:
            self._end_all(last)

    def _turn(self) -> None:
        """Carry out the commands that have come, or wait for one if there is nothing to compute; then one step."""
        while not self._commands.empty() or not self.engine.has_work:
            if not self.engine.has_work:
                self._statistics, self._is_idle = self.engine.statistics(), True
            command = self._commands.get()
            if self._is_idle:
                self._last_step, self._is_idle = time.monotonic(), False
            command()
        started = time.monotonic()
        try:
            deltas = self.engine.step()
        except Exception as error:  # a fault of the engine itself: every request says so
            deltas = self.engine.abort(error)
        for number, choice in self.engine.begun:
            if listener := self._listeners.get(number):
                listener.queued_seconds[choice] = started - listener.submitted
        self._statistics, self._last_step = self.engine.statistics(), time.monotonic()
        for delta in deltas:
            self._deliver(delta)

    def _deliver(self, delta: Delta) -> None:
        listener = self._listeners.get(delta.request)
        if listener is None:
            return
        if delta.choice in listener.queued_seconds:
            delta = replace(delta, queued_seconds=listener.queued_seconds.pop(delta.choice))
        try:
            listener.on_delta(delta)
        except Exception:  # the listener's own fault, which must not end the thread
            _log.exception("a listener failed; its request is cancelled")
            self._cancel(delta.request)
            return
        if delta.finish is not None:
            listener.choices_left.remove(delta.choice)
            self._release(1)
            if not listener.choices_left:
                del self._listeners[delta.request]

    def _add(self, handle: int, request: Request, listener: _Listener) -> None:
        self._listeners[handle] = listener
        try:
            self.engine.add(request, handle)
        except Exception as error:  # the request's last Delta says what failed
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._end(handle, Delta(request=handle, finish=FinishReason.error, error=line))

    def _cancel(self, handle: int) -> None:
        listener = self._listeners.pop(handle, None)
        if listener is not None:
            self.engine.cancel(handle)
            self._release(len(listener.choices_left))

    def _end(self, handle: int, last: Delta) -> None:
        for choice in sorted(self._listeners[handle].choices_left):
            self._deliver(replace(last, request=handle, choice=choice))

    def _end_all(self, last: Delta) -> None:
        """Tell every listener, those of commands that have not been carried out too."""
        with self._lock:
            self._is_stopping = True
        while not self._commands.empty():
            with suppress(_LeaveError):
                self._commands.get()()
        for handle in tuple(self._listeners):
            with suppress(Exception):  # after a fault in the engine itself
                self.engine.cancel(handle)
            self._end(handle, last)
        self._statistics, self._is_idle = self.engine.statistics(), True

    def _release(self, count: int) -> None:
        with self._lock:
            self._num_open -= count
            if self._num_open == 0:
                self._lock.notify_all()


class _LeaveError(Exception):
    pass


def _leave() -> None:
    raise _LeaveError
