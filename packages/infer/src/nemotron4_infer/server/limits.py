"""What stands before the routes: who may ask, and how much. An ASGI application around another.

Invariants: a route sees only requests whose host, key, headers and body are within the limits, and its body is read
already; every answer has an `x-request-id`.
"""

import asyncio
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemotron4_infer.serve_job import ServerConfig
from nemotron4_infer.server.errors import ApiError

MAX_HEADERS, MAX_HEADER_BYTES = 100, 32_768
LOG = logging.getLogger("nemotron4.serve")
"""A line for each request: ids and counts, never what a client wrote."""
_UNLOGGED, _LOGGED_CHARACTERS = ("/health", "/ping", "/metrics"), 60
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{1,5})?")


class Guard:
    """Checks a request, reads its body, and passes it on."""

    def __init__(self, app: ASGIApp, config: ServerConfig, api_key: bytes | None) -> None:
        self._app, self._config, self._key = app, config, api_key
        self._allows = allowed_host(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and log it."""
        assert scope["type"] == "http"
        headers, started, status = dict(scope["headers"]), time.monotonic(), 0
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12).encode()
        scope["state"] = state = {"request_id": request_id.decode(), "counts": ""}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", request_id)]}
            await send(message)

        try:
            await self._answer(scope, headers, receive, send_with_id)
        finally:
            if scope["path"] not in _UNLOGGED:
                path = scope["raw_path"].decode("latin-1")[:_LOGGED_CHARACTERS]  # without spaces or control characters
                what = f"{scope['method']} {path} {status or 'no answer'} {time.monotonic() - started:.2f} s"
                LOG.info("%s", f"{state['request_id']} {what} {state['counts']}".rstrip())

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            self._check(scope, headers)
            body = await self._body(receive, headers)
        except ApiError as error:
            # What else comes on this connection is not read: the time for a body would not limit it.
            error.headers = {**(error.headers or {}), "Connection": "close"}
            await error.response()(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            message = f"at most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes of them are read"
            raise ApiError(431, message, code="headers_too_large")
        if scope["path"] == "/health":
            return
        if not self._allows(headers.get(b"host", b"")):
            message = "this server does not answer to the name in the Host header; server.allowed_hosts lists names"
            raise ApiError(403, message, code="host_not_allowed")
        if scope["path"] == "/" or self._key is None:  # the page holds no secret, and has a field for the key
            return
        if not _has_key(headers.get(b"authorization", b""), self._key):
            challenge = {"WWW-Authenticate": 'Bearer realm="nemotron4"'}
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", headers=challenge)

    async def _body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes | None:
        """The whole body; None if the client left."""
        limits, body = self._config.limits, bytearray()
        too_large = ApiError(413, f"the body is larger than {limits.body_bytes} bytes", code="body_too_large")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > limits.body_bytes:
            raise too_large
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limits.body_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            late = f"the body did not arrive within {limits.body_seconds:g} seconds"
            raise ApiError(408, late, code="timeout") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then waits for the client to leave."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


def allowed_host(config: ServerConfig) -> Callable[[bytes], bool]:
    """Whether a Host header may be answered: a page of the web could have its own name lead here (DNS rebinding)."""
    names = {name.lower() for name in (*_LOOPBACK, config.host, f"[{config.host}]", *config.allowed_hosts)}

    def allows(host: bytes) -> bool:
        if "*" in names:
            return True
        match = _HOST.fullmatch(host.decode("latin-1"))
        name = match[1].lower().rstrip(".") if match else ""
        return name in names or (config.host not in _LOOPBACK and _is_address(name))

    return allows


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _has_key(authorization: bytes, key: bytes) -> bool:
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key)
