"""The connections of the server: uvicorn's HTTP/1.1 protocol with time limits, of which uvicorn has none.

Invariant: a connection whose client neither finishes its headers nor takes its answer in time is closed, whatever the
client does. The body's time is limited in limits.py.
"""

import asyncio
import sys

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from nemotron4_infer.serve_job import LimitsConfig
from nemotron4_infer.server.errors import RETRY_SECONDS, error_bytes
from nemotron4_infer.server.limits import MAX_HEADER_BYTES


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with time limits, which a subclass gives."""

    limits: LimitsConfig
    headers_timer: asyncio.TimerHandle | None = None
    reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Count the connection, and start the time for its first headers."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self.refuse(503, "too many connections; try again later", "too_many_connections")
        else:
            self.headers_timer = self.loop.call_later(self.limits.header_seconds, self.headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        for timer in (self.headers_timer, self.reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the time for headers runs while a request has not begun."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        waits = self.conn.their_state is h11.IDLE
        if not waits and self.headers_timer is not None:
            self.headers_timer.cancel()
            self.headers_timer = None
        elif waits and self.headers_timer is None:
            self.headers_timer = self.loop.call_later(self.limits.header_seconds, self.headers_are_late)

    def headers_are_late(self) -> None:
        """Close."""
        if not self.transport.is_closing():
            self.refuse(408, f"no headers within {self.limits.header_seconds:g} seconds", "timeout")

    def pause_writing(self) -> None:
        """The client does not take what is sent: start its time."""
        super().pause_writing()
        self.reader_timer = self.loop.call_later(self.limits.reader_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self.reader_timer is not None:
            self.reader_timer.cancel()
            self.reader_timer = None

    def send_400_response(self, msg: str) -> None:
        """What came is no request."""
        error = sys.exc_info()[1]  # uvicorn calls this while it handles h11's error, which names the status
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        texts = {431: f"at most {MAX_HEADER_BYTES} bytes of headers are read"}
        self.refuse(status, texts.get(status, "this is not an HTTP request"), "bad_request")

    def refuse(self, status: int, message: str, code: str) -> None:
        """Answer without a request, and close."""
        body = error_bytes(status, message, code)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *([("retry-after", RETRY_SECONDS)] if status == 503 else []),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for part in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


def uvicorn_config(app: object, limits: LimitsConfig) -> Config:
    """uvicorn's settings: HTTP/1.1 alone, no log of its own, no trust in headers of proxies."""
    return Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        http=type("Protocol", (LimitedProtocol,), {"limits": limits}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]  # only given to call_later
        timeout_graceful_shutdown=5,
    )
