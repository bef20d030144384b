"""A server in a thread of the test's process, on a free port, and the plainest client there is.

Tests of one file share an engine; a server with other settings is a second app around it.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_tokenizer import train_tiny_tokenizer

from nemotron4_data import Tokenizer
from nemotron4_infer.engine.loop import EngineThread
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.serve_job import ServeJob, ServerConfig
from nemotron4_infer.server.app import Served, create_app
from nemotron4_infer.server.command import bind, serve_model
from nemotron4_infer.server.lifetime import DrainingServer
from nemotron4_infer.server.protocol import uvicorn_config
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

SECONDS = 20.0
"""Longest wait for anything."""


def tiny_chat_model(root: Path, spare_rows: int = 8, **changes: Any) -> Path:
    """A model directory whose tokenizer has turn markers; the head has some rows that no token has."""
    path = root / "tokenizer.model"
    path.write_bytes(train_tiny_tokenizer(num_invented=40, vocab_size=400))
    settings: dict[str, Any] = {
        "vocab_size": Tokenizer(path).vocab_size + spare_rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "init_std": 0.2,
        "max_sequence_length": 256,
    }
    config = ModelConfig(**(settings | changes))
    model = Transformer(config)
    initialise(model, 0, config)
    save_pretrained(model, root / "tiny", dtype=torch.float32, tokenizer_model=path)
    return root / "tiny"


@dataclass
class Server:
    """A running server."""

    address: tuple[str, int]
    served: Served
    uvicorn: DrainingServer

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """One request; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if data is not None else {}
        with closing(http.client.HTTPConnection(*self.address, timeout=SECONDS)) as connection:
            with suppress(ConnectionError):  # the server may answer, and close, before it has read all
                connection.request(method or ("GET" if data is None else "POST"), path, data, given | (headers or {}))
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())

    def accepts(self) -> bool:
        """Whether it takes connections."""
        with suppress(ConnectionRefusedError), self.connect():
            return True
        return False

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(self.address, timeout=SECONDS)

    def metrics(self) -> dict[str, float]:
        """Each metric of one label set, by its name without prefix; of several, their sum."""
        found: dict[str, float] = {}
        for name, value in re.findall(
            r"^nemotron4_(\w+)\{[^}]*\} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE
        ):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def is_idle(self) -> bool:
        """Whether nothing runs or waits and no page is held."""
        now = self.metrics()
        return not (now["num_requests_running"] or now["num_requests_waiting"] or now["pages_running"])


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The events of a stream, without comments and its end."""
        lines = [block for block in self.body.decode().split("\n\n") if block and not block.startswith(":")]
        assert all(line.startswith("data: ") and "\n" not in line for line in lines), lines
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def engine_thread(model_dir: Path, config: EngineConfig | None = None) -> EngineThread:
    """An engine for a model directory."""
    from nemotron4_infer.engine.build import build_engine

    return EngineThread(build_engine(str(model_dir), None, config or EngineConfig(max_running=8)))


@contextmanager
def serving(
    thread: EngineThread, model_dir: Path, config: ServerConfig | None = None, api_key: bytes | None = None
) -> Iterator[Server]:
    """Serve while the context lasts; at its end the server drains."""
    config = config or ServerConfig()
    config.port = 0
    job = ServeJob(model_dir=str(model_dir), server=config)
    with bind(config) as listener:
        served = serve_model(job, thread)
        server = DrainingServer(uvicorn_config(create_app(served, api_key), config.limits), served)
        worker = threading.Thread(target=server.run, args=([listener],))
        worker.start()
        try:
            wait_for(lambda: server.started)
            yield Server(listener.getsockname()[:2], served, server)
        finally:
            server.should_exit = True
            worker.join(SECONDS)
            assert not worker.is_alive()


def wait_for(condition: Any) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.005)
