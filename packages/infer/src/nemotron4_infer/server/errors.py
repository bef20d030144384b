"""Errors as clients of OpenAI's API expect them: `{"error": {"message", "type", "param", "code"}}`.

Invariant: nothing that a client sent is repeated but the names of our fields, numbers, and quoted short text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nemotron4_infer.server.schema import TAGS

RETRY_SECONDS = "1"


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorBody


class ApiError(HTTPException):
    """An answer that is not a success."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code

    def content(self) -> dict[str, Any]:
        """The error object."""
        return error_object(self.status_code, self.detail, self.param, self.code)

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.content(), self.status_code, self.headers)


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The object for a status and a message."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_bytes(status: int, message: str, code: str | None = None) -> bytes:
    """The same as the bytes of a body."""
    return json.dumps(error_object(status, message, code=code)).encode()


def unavailable(message: str) -> ApiError:
    """The server cannot take the request now."""
    return ApiError(503, message, code="unavailable", headers={"Retry-After": RETRY_SECONDS})


def queue_is_full() -> ApiError:
    """engine.max_waiting sequences wait already."""
    message = "too many requests wait already; try again later"
    return ApiError(429, message, code="queue_full", headers={"Retry-After": RETRY_SECONDS})


def engine_fault() -> ApiError:
    """The request was ended by a fault of ours. It must not be tried again: it may be the cause."""
    message = "a fault of the server ended this request; its log says which"
    return ApiError(500, message, code="engine_fault", headers={"x-should-retry": "false"})


def add_handlers(app: FastAPI) -> None:
    """Make every exception an error object."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = place(first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        return ApiError(400, f"{param or 'body'}: {message}", param=param, code=first["type"]).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        texts = {404: "there is no such route; GET /openapi.json lists them", 405: "the route has no such method"}
        message = texts.get(error.status_code, "the request could not be read")
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, message, code=code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return engine_fault().response()  # Starlette raises the error again, and uvicorn logs it


def place(loc: Sequence[int | str]) -> str | None:
    """The dotted place of a field: `prompt.3`. Keys that the client made up are shortened and quoted."""
    words = [
        str(word) if isinstance(word, int) or (word.isascii() and word.isidentifier()) else repr(word[:20])
        for word in loc[1:]
        if word not in TAGS
    ]
    return ".".join(words) or None
