"""One HTTP request in the engine: its Deltas arrive in a queue that is read on the event loop.

Invariant: however a request ends, by itself, by a client that left, by a reader that is too slow or by an error,
`close` cancels what the engine still computes for it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from nemotron4_infer.engine.core import QueueFullError
from nemotron4_infer.engine.loop import EngineThread, StoppedError
from nemotron4_infer.engine.request import Delta, FinishReason, Request
from nemotron4_infer.server.errors import ApiError, engine_fault, queue_is_full, unavailable
from nemotron4_infer.server.metrics import RequestTimes

MAX_UNREAD = 4096
"""Deltas that may wait for a reader; one more, and the request is ended."""


class Run:
    """The generation of one HTTP request. Its methods belong to the event loop's thread."""

    def __init__(self, thread: EngineThread, times: RequestTimes) -> None:
        self._thread, self._times = thread, times
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Delta] | ApiError] = asyncio.Queue()
        self._handles: list[int] = []
        self._left = 0

    def start(self, requests: Sequence[Request]) -> None:
        """Hand the requests to the engine; ApiError if it does not take them all."""
        self._left = sum(request.choices for request in requests)
        self._times.open([len(request.prompt_ids) for request in requests], requests[0].choices)
        try:
            for number, request in enumerate(requests):
                self._handles.append(self._submit(number, request))
        except StoppedError as error:
            self.close()
            raise unavailable("the engine has stopped") from error
        except QueueFullError as error:
            self.close()
            raise queue_is_full() from error
        except ValueError as error:
            self.close()
            raise ApiError(400, str(error)) from error

    def _submit(self, number: int, request: Request) -> int:
        def on_delta(delta: Delta) -> None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._arrive, number, delta)

        return self._thread.submit(request, on_delta)

    def _arrive(self, number: int, delta: Delta) -> None:
        self._times.observe(number, delta)
        if self._queue.qsize() >= MAX_UNREAD:
            self.fail(unavailable("the answer was not read for too long"))
        elif self._handles:
            self._queue.put_nowait((number, delta))

    def fail(self, error: ApiError) -> None:
        """End the run; its reader gets the error after what has arrived."""
        self._queue.put_nowait(error)
        self._cancel()

    async def deltas(self, comment_seconds: float) -> AsyncIterator[tuple[int, Delta] | None]:
        """(number of the prompt, Delta) until all choices have ended; None if nothing came for a while.

        ApiError if the engine failed.
        """
        while self._left:
            try:
                async with asyncio.timeout(comment_seconds):  # Python 3.11's wait_for may swallow a cancellation
                    item = await self._queue.get()
            except TimeoutError:
                if not self._thread.health().is_alive:
                    raise unavailable("the engine does not answer") from None
                yield None
                continue
            if isinstance(item, ApiError):
                raise item
            if item[1].finish in (FinishReason.error, FinishReason.cancelled):
                raise engine_fault()
            self._left -= item[1].finish is not None
            yield item

    def close(self) -> None:
        """Cancel what still runs. To be called in any case, and more than once if need be."""
        self._cancel()
        self._times.close()

    def _cancel(self) -> None:
        if self._left:
            for handle in self._handles:
                self._thread.cancel(handle)
        self._handles.clear()
