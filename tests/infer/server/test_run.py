"""The queue between the engine and the event loop."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from nemotron4_infer.engine.loop import Health
from nemotron4_infer.engine.request import Delta, Request
from nemotron4_infer.server.errors import ApiError
from nemotron4_infer.server.metrics import RequestTimes
from nemotron4_infer.server.run import Run


class IdleThread:
    """An engine that takes everything and does nothing."""

    def __init__(self):
        self.cancelled, self.is_alive = [], True

    def submit(self, request, on_delta):
        return 5

    def cancel(self, handle):
        self.cancelled.append(handle)

    def health(self):
        return Health(self.is_alive, 0.0, None)


class NoMetrics:
    """Counts nothing."""

    registry = CollectorRegistry()

    def observe(self, name, value):
        pass

    def count_end(self, reason):
        pass


def started(thread):
    run = Run(thread, RequestTimes(NoMetrics()))
    run.start([Request(prompt_ids=(1,))])
    return run


@pytest.mark.parametrize("ticks", range(5))
def test_a_reader_that_is_cancelled_ends_even_if_something_comes_at_the_same_time(ticks):
    async def test():
        run = started(IdleThread())

        async def read():
            async for _ in run.deltas(1000):
                pass

        reader = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        run._arrive(0, Delta(request=5, text="a"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        reader.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert reader.done()
        run.close()

    asyncio.run(test())


def test_an_engine_that_hangs_is_noticed():
    async def test():
        thread = IdleThread()
        run, seen = started(thread), []

        async def read():
            async for item in run.deltas(0.001):
                seen.append(item)
                thread.is_alive = len(seen) < 3

        with pytest.raises(ApiError, match="does not answer"):
            await read()
        assert seen == [None] * 3
        run.close()
        assert thread.cancelled == [5]
        run.close()
        assert thread.cancelled == [5]

    asyncio.run(test())
