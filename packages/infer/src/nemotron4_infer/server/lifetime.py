"""The end of the server: turn new requests away, let running ones end, close.

Invariant: a running request ends by itself or with an error object; the process then ends with status 0.
"""

import asyncio
import socket
import time
from types import FrameType

import uvicorn

from nemotron4_infer.server.app import Served
from nemotron4_infer.server.errors import unavailable


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which answers 503 while the last requests run."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self._served = served

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal, hurry at the second. The signal is not raised again afterwards."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close all connections."""
        served = self._served
        served.draining = True
        deadline = time.monotonic() + served.config.drain_seconds
        while served.runs and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        for run in list(served.runs):
            run.fail(unavailable("the server stopped before the text was complete"))
        self.force_exit = False  # let the errors be sent
        await super().shutdown(sockets)
