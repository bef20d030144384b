"""`nemotron4 serve`: load a model, listen, answer until a signal comes, let what runs end.

Invariants: what can be refused is refused before the model is loaded; SIGTERM and Ctrl-C end it with status 0.
"""

import errno
import logging
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron4_common.extras import check_installed
from nemotron4_common.rules import require
from nemotron4_infer.serve_job import ServeJob, ServerConfig

if TYPE_CHECKING:
    from nemotron4_infer.engine.loop import EngineThread
    from nemotron4_infer.server.app import Served

_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?")
"""Names of run directories."""
API_KEY_VARIABLE = "NEMOTRON4_API_KEY"
MODULES = ("fastapi", "prometheus_client", "pydantic", "uvicorn")


def run_serve(job: ServeJob) -> None:
    """Serve until a signal comes. ValueError, one line, for what is wrong with the job or the model directory."""
    # Threads that wait for work then sleep instead of spinning on the cores that the HTTP thread needs. OpenMP reads it
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    check_installed("serve: needs FastAPI, uvicorn and prometheus-client", MODULES, "nemotron4-infer[serve]")
    api_key = read_api_key(job.server)
    with bind(job.server) as listener:
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
        logging.getLogger("nemotron4.serve").setLevel(logging.INFO)
        serve(job, api_key, listener)


def serve(job: ServeJob, api_key: bytes | None, listener: socket.socket) -> None:
    """Load the model and answer on a bound socket."""
    from nemotron4_infer.engine.build import build_engine
    from nemotron4_infer.engine.loop import EngineThread
    from nemotron4_infer.server.app import create_app
    from nemotron4_infer.server.lifetime import DrainingServer
    from nemotron4_infer.server.protocol import uvicorn_config

    thread = EngineThread(build_engine(job.model_dir, job.dtype, job.engine))
    try:
        served = serve_model(job, thread)
        config = uvicorn_config(create_app(served, api_key), job.server.limits)
        listener.listen()  # so that whoever reads the next line can connect
        print(f"{served.name} at {address(listener)}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if api_key is None and job.server.host not in ("127.0.0.1", "localhost", "::1"):
            line = f"server.host ({job.server.host}): anyone who can connect may ask; {API_KEY_VARIABLE} can hold a key"
            print(line, file=sys.stderr, flush=True)
        DrainingServer(config, served).run([listener])
    finally:
        thread.close()


def serve_model(job: ServeJob, thread: "EngineThread") -> "Served":
    """What the routes need to know of a model."""
    from nemotron4_infer.chat import ChatTemplate
    from nemotron4_infer.server.app import Served
    from nemotron4_infer.server.asked import Reader
    from nemotron4_infer.server.metrics import Metrics

    name, engine = job.server.model_name or model_name(job.model_dir), thread.engine
    reader = Reader(
        tokenizer=engine.tokenizer,
        template=ChatTemplate.for_tokenizer(engine.tokenizer),
        max_sequence_length=engine.max_sequence_length,
        put_eos_first=job.server.put_eos_first,
        max_choices=job.server.limits.max_choices,
    )
    return Served(
        thread=thread,
        reader=reader,
        name=name,
        fingerprint=engine.fingerprint,
        created=int(time.time()),
        config=job.server,
        metrics=Metrics(thread, job.server.metrics, name),
    )


def model_name(model_dir: str) -> str:
    """The name of a model directory; of an export, its run's: runs/demo/latest/export-int4 is demo-int4."""
    path, variant = Path(os.path.abspath(model_dir)), ""  # links stay as they were typed
    if path.name == "export" or path.name.startswith("export-"):
        path, variant = path.parent, path.name.removeprefix("export")
    if path.name == "latest" or _TIME.fullmatch(path.name):
        path = path.parent
    return re.sub(r"[^\w.+-]", "_", path.name or "model") + variant


def read_api_key(config: ServerConfig) -> bytes | None:
    """The key that clients must send. ValueError or OSError if it is not usable; its text is never shown."""
    given, path = os.environ.get(API_KEY_VARIABLE), config.api_key_file
    if path is None and given is None:
        return None
    rule = f"{API_KEY_VARIABLE} is set too; use one of them"
    require(path is None or given is None, "server.api_key_file", path, rule)
    text = given if path is None else Path(path).read_text(encoding="utf-8", errors="replace")
    assert text is not None
    key, where = text.strip(), API_KEY_VARIABLE if path is None else f"server.api_key_file ({path})"
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"{where}: must hold one key of visible ASCII characters, without spaces")
    return key.encode()


def bind(config: ServerConfig) -> socket.socket:
    """A socket bound to the server's address, on which nothing is answered yet."""
    host, port = config.host, config.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        rule = "is no address or name of this machine; 127.0.0.1 serves this machine, 0.0.0.0 the network"
        raise ValueError(f"server.host ({host}): {rule}") from error
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise ValueError(_why_not_bound(error, host, port)) from error
    return listener


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"server.port ({port}): is in use; choose another, or 0 for one that is free"
    if error.errno == errno.EACCES:
        return f"server.port ({port}): needs a right that this user does not have; choose one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"server.host ({host}): is no address of this machine; 0.0.0.0 listens on all that it has"
    return f"server.host ({host}): cannot be listened on: {error.strerror}"


def address(listener: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
