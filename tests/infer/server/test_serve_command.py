"""`nemotron4 serve`: what it refuses before it loads a model, what it prints, and how it ends."""

import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from served import Server, wait_for

from nemotron4_config.main import main
from nemotron4_infer.serve_job import LimitsConfig, ServerConfig
from nemotron4_infer.server.command import address, bind, model_name, read_api_key
from nemotron4_infer.server.limits import LOG


def refusal(capsys, *overrides):
    assert main(["serve", "model_dir=none", "server.port=0", *overrides]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("nemotron4 serve: ").rstrip("\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ServerConfig(port=65536), "server.port (65536): must be in [0, 65535]; 0 takes one that is free"),
        (lambda: ServerConfig(host=""), "server.host (''): must name an address; 127.0.0.1 is this machine alone"),
        (lambda: ServerConfig(drain_seconds=-1), "server.drain_seconds (-1): must be at least 0"),
        (lambda: ServerConfig(api_key_file=""), "server.api_key_file (''): must name a file"),
        (lambda: LimitsConfig(body_bytes=0), "server.limits.body_bytes (0): must be at least 1"),
        (lambda: LimitsConfig(body_seconds=0), "server.limits.body_seconds (0): must be above 0"),
        (
            lambda: LimitsConfig(body_seconds=math.inf),
            "server.limits.body_seconds (inf): must be a finite number; give one",
        ),
        (
            lambda: ServerConfig(model_name="a b"),
            "server.model_name ('a b'): must be text without spaces or control characters; leave it out for a default",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_no_model_directory_is_one_line(capsys):
    message = "model_dir (none): is not a directory; give the export of a run, e.g. runs/demo/latest/export"
    assert refusal(capsys) == message


def test_a_missing_extra_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setattr("nemotron4_common.extras.find_spec", lambda name: None)
    message = "serve: needs FastAPI, uvicorn and prometheus-client; pip install 'nemotron4-infer[serve]'"
    assert refusal(capsys) == message


def test_a_port_in_use_is_one_line(capsys):
    with bind(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        listener.listen()
        message = f"server.port ({port}): is in use; choose another, or 0 for one that is free"
        assert refusal(capsys, f"server.port={port}") == message


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("203.0.113.1", "is no address of this machine; 0.0.0.0 listens on all that it has"),
        ("no host", "is no address or name of this machine; 127.0.0.1 serves this machine, 0.0.0.0 the network"),
        ("x" * 300, "is no address or name of this machine; 127.0.0.1 serves this machine, 0.0.0.0 the network"),
    ],
)
def test_a_host_that_is_not_here_is_one_line(host, rule):
    with pytest.raises(ValueError) as caught:
        bind(ServerConfig(host=host, port=0))
    assert str(caught.value) == f"server.host ({host}): {rule}"


def test_addresses():
    with bind(ServerConfig(port=0)) as listener:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address(listener))
    if socket.has_ipv6:
        with bind(ServerConfig(host="::1", port=0)) as listener:
            assert re.fullmatch(r"http://\[::1\]:\d+", address(listener))


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("NEMOTRON4_API_KEY", raising=False)
    assert read_api_key(ServerConfig()) is None
    path = tmp_path / "key"
    path.write_text("key-1\n")
    config = ServerConfig(api_key_file=str(path))
    assert read_api_key(config) == b"key-1"
    for text in ("", "\n", "two words", "schlüssel"):
        path.write_text(text)
        with pytest.raises(ValueError) as caught:
            read_api_key(config)
        rule = "must hold one key of visible ASCII characters, without spaces"
        assert str(caught.value) == f"server.api_key_file ({path}): {rule}"
    monkeypatch.setenv("NEMOTRON4_API_KEY", "key-2")
    assert read_api_key(ServerConfig()) == b"key-2"
    with pytest.raises(ValueError, match="NEMOTRON4_API_KEY is set too"):
        read_api_key(config)
    monkeypatch.setenv("NEMOTRON4_API_KEY", "")
    with pytest.raises(ValueError, match="NEMOTRON4_API_KEY: must hold one key"):
        read_api_key(ServerConfig())


@pytest.mark.parametrize(
    ("model_dir", "name"),
    [
        ("runs/demo/latest/export", "demo"),
        ("runs/demo/latest/export-int4/", "demo-int4"),
        ("runs/demo/2026-11-29_10-35-38/export", "demo"),
        ("runs/demo/2026-11-29_10-35-38_2/export", "demo"),
        ("../models/15b", "15b"),
        ("/models/demo/export", "demo"),
        ("/models/my model\udcff", "my_model_"),
        ("/export", "model"),
        ("/", "model"),
    ],
)
def test_the_name_of_a_model(model_dir, name):
    assert model_name(model_dir) == name


def test_torch_is_imported_after_openmp_is_told_to_sleep():
    probe = """
import os, sys
from nemotron4_config.main import main
from nemotron4_infer.server import command

command.serve = lambda job, key, listener: print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"])
main(["serve", "model_dir=none", "server.port=0"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    found = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "False PASSIVE\n"


def test_a_server_from_its_first_line_to_sigterm(chat_dir, capsys, monkeypatch):
    monkeypatch.setenv("NEMOTRON4_API_KEY", "key-1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's, with which the command would not make its own
    with bind(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
    answers = []

    def ask_and_end():
        try:
            headers = {"Authorization": "Bearer key-1", "Content-Type": "application/json", "X-Request-Id": "mine"}
            body = json.dumps({"prompt": "hunter2", "max_tokens": 2, "ignore_eos": True}).encode()
            address = ("127.0.0.1", port)
            wait_for(lambda: Server(address, None, None).accepts())
            LOG.disabled = False  # as Hydra leaves a logger that is made after it
            answers.append(Server(address, None, None).ask("/v1/completions", body, headers).json())
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask_and_end)
    asking.start()
    assert main(["serve", f"model_dir={chat_dir}", f"server.port={port}"]) == 0
    asking.join()
    assert answers[0]["usage"]["completion_tokens"] == 2
    out, err = capsys.readouterr()
    *plan, first, log = err.splitlines()
    assert [line.split()[0] for line in plan] == ["weights", "workspace", "cache", "free"]
    assert first == f"tiny at http://127.0.0.1:{port}  (Ctrl-C ends it)"
    pattern = r"\S+ \S+ mine POST /v1/completions 200 \d+\.\d\d s prompt_tokens=\d+ generated_tokens=2 length=1"
    assert re.fullmatch(pattern, log)
    assert out == ""
