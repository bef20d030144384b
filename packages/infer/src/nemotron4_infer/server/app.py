"""The routes.

Invariant: a route answers with an object of the contract or raises ApiError; generation is cancelled when its client
leaves, streamed or not.
"""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from nemotron4_data import Tokenizer
from nemotron4_infer.engine.loop import EngineThread
from nemotron4_infer.serve_job import ServerConfig
from nemotron4_infer.server.answer import COMMENT, DONE, Answer, event
from nemotron4_infer.server.asked import Asked, Reader
from nemotron4_infer.server.errors import ApiError, ErrorObject, add_handlers, engine_fault, unavailable
from nemotron4_infer.server.limits import LOG, Guard
from nemotron4_infer.server.metrics import Metrics, RequestTimes
from nemotron4_infer.server.run import Run
from nemotron4_infer.server.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass(kw_only=True)
class Served:
    """The model that is served, and what is known of it."""

    thread: EngineThread
    reader: Reader
    name: str
    fingerprint: str
    created: int
    config: ServerConfig
    metrics: Metrics
    draining: bool = False
    """Whether new requests are turned away."""
    runs: set[Run] = field(default_factory=set)
    """Generations under way."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self.reader.tokenizer

    def check(self, body: Any) -> None:
        """ApiError for another model's name, or for fields that nobody knows."""
        if body.model is not None and body.model != self.name:
            raise no_such_model(self.name)
        if self.config.refuse_unknown_fields and body.model_extra:
            names = ", ".join(repr(name[:20]) for name in list(body.model_extra)[:5])
            raise ApiError(400, f"unknown fields: {names}", code="unknown_field")
        if self.draining:
            raise unavailable("the server is about to stop")

    def model(self) -> dict[str, Any]:
        """The model as an object."""
        head = {"id": self.name, "object": "model", "created": self.created, "owned_by": "nemotron4"}
        return {**head, "max_model_len": self.reader.max_sequence_length}


def no_such_model(name: str) -> ApiError:
    """Another model was asked for."""
    return ApiError(
        404, f"model: there is no such model; this server has {name}", param="model", code="model_not_found"
    )


class StrictRequest(Request):
    """JSON as the standard has it: no NaN, no lone surrogates, no depth or digits without end."""

    async def json(self) -> Any:
        """The body's value; ApiError if it is not JSON."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error


class StrictRoute(APIRoute):
    """Takes bodies as JSON only. A page elsewhere can send other types here without the browser asking first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise ApiError(400, "content-type: must be application/json", code="content_type")
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class EventStream(StreamingResponse):
    """Events of a run, which ends with them."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def create_app(served: Served, api_key: bytes | None) -> Guard:
    """The whole application."""
    app = FastAPI(
        title="nemotron4",
        version=version("nemotron4-infer"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorObject}, "5XX": {"model": ErrorObject}},
    )
    app.router.route_class = StrictRoute
    add_handlers(app)
    add_generation(app, served)
    add_model(app, served)
    add_operation(app, served)
    return Guard(app, served.config, api_key)


def add_generation(app: FastAPI, served: Served) -> None:
    """Completions and chat."""

    @app.post("/v1/completions", responses=_EVENTS)
    async def completions(request: Request, body: CompletionBody) -> Response:
        served.check(body)
        return await generate(served, request, await asyncio.to_thread(served.reader.completion, body), False)

    @app.post("/v1/chat/completions", responses=_EVENTS)
    async def chat_completions(request: Request, body: ChatBody) -> Response:
        served.check(body)
        return await generate(served, request, await asyncio.to_thread(served.reader.chat, body), True)


async def generate(served: Served, request: Request, asked: Asked, is_chat: bool) -> Response:
    """Run what was asked, and answer."""
    times = RequestTimes(served.metrics)
    request_id = request.scope["state"]["request_id"]
    head = {"model": served.name, "system_fingerprint": served.fingerprint}
    answer = Answer(asked, served.tokenizer, is_chat=is_chat, request_id=request_id, head=head)
    run = Run(served.thread, times)

    def close() -> None:
        if run in served.runs:
            served.runs.discard(run)
            run.close()
            request.scope["state"]["counts"] = times.line()

    if asked.requests[0].json_schema is not None:
        await asyncio.to_thread(compile_schema, served, asked)
    run.start(asked.requests)
    served.runs.add(run)
    if asked.stream:
        return EventStream(events(served, asked, answer, run), close)
    try:
        return await whole(served, request, answer, run)
    finally:
        close()


def compile_schema(served: Served, asked: Asked) -> None:
    """Compile the JSON schema, which may take a while; ApiError if that fails."""
    try:
        served.thread.engine.check(asked.requests[0])
    except ValueError as error:
        raise ApiError(400, str(error), param="response_format") from error


async def events(served: Served, asked: Asked, answer: Answer, run: Run) -> AsyncIterator[bytes]:
    """The answer as events; a late failure is an event too, after which nothing comes."""
    try:
        async for item in run.deltas(served.config.limits.comment_seconds):
            if item is None:
                yield COMMENT
                continue
            for content in answer.events(*item):
                yield event(content)
        if asked.include_usage:
            yield event(answer.last_event())
        yield DONE
    except ApiError as error:
        yield event(error.content())
    except Exception:  # the status has been sent: only an event can still tell the client
        LOG.exception("a fault while an answer was streamed")
        yield event(engine_fault().content())


async def whole(served: Served, request: Request, answer: Answer, run: Run) -> Response:
    """The answer at once, unless the client leaves before."""

    async def collect() -> None:
        async for item in run.deltas(served.config.limits.comment_seconds):
            if item is not None:
                answer.add(*item)

    async def client_leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, leaving = asyncio.ensure_future(collect()), asyncio.ensure_future(client_leaves())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=499)  # nobody reads it
        work.result()
        return await asyncio.to_thread(lambda: JSONResponse(answer.whole()))  # tens of thousands of tokens take a while
    finally:
        work.cancel()
        leaving.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


def add_model(app: FastAPI, served: Served) -> None:
    """What the model is, and its tokenizer."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.model()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != served.name:
            raise no_such_model(served.name)
        return served.model()

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        served.check(body)
        ids = await asyncio.to_thread(served.tokenizer.encode, body.prompt)
        if body.add_special_tokens:
            ids = [served.tokenizer.eos_id, *ids]
        return {"tokens": ids, "count": len(ids), "max_model_len": served.reader.max_sequence_length}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        served.check(body)
        served.reader.check_ids(body.tokens, "tokens")
        return {"prompt": await asyncio.to_thread(served.tokenizer.decode, body.tokens)}

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        tokenizer = served.tokenizer
        ids = {"eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "pad": tokenizer.pad_id}
        pieces = {f"{name}_token": tokenizer.piece(token) if token >= 0 else None for name, token in ids.items()}
        return {"vocab_size": tokenizer.vocab_size, **pieces, "has_chat_template": served.reader.template is not None}


def add_operation(app: FastAPI, served: Served) -> None:
    """How the server is, and its page."""

    async def health() -> Response:
        found = served.thread.health()
        if served.draining or not found.is_alive:
            raise unavailable("the server is about to stop" if served.draining else "the engine does not answer")
        return JSONResponse({"status": "ok"})

    app.get("/health")(health)
    app.get("/ping")(health)

    @app.get("/version")
    async def get_version() -> dict[str, str | bool]:
        return {"version": version("nemotron4-infer"), "equal_bits": served.thread.engine.runner.equal_bits}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return PlainTextResponse(served.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        found = files("nemotron4_infer.server") / "page.html"
        if not found.is_file():
            raise ApiError(404, "this installation has no page", code="not_found")
        html = found.read_text(encoding="utf-8")
        headers = {"Content-Security-Policy": content_policy(html), "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(html, headers={**headers, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"})


def content_policy(html: str) -> str:
    """A policy that allows exactly the scripts and styles which the page has in it, and requests to this server."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
        found = [b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        return " ".join(f"'sha256-{digest}'" for digest in found) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
