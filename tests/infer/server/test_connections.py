"""Clients that are slow, that leave, that lie, or that have no key; and faults and the end of the server."""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import suppress

import pytest
from served import SECONDS, serving, wait_for

from nemotron4_infer.engine.loop import EngineThread
from nemotron4_infer.serve_job import LimitsConfig, ServerConfig

HASTY = LimitsConfig(header_seconds=0.3, body_seconds=0.3, reader_seconds=0.3, idle_seconds=0.3, comment_seconds=0.05)
ENDLESS = {"prompt": "there", "max_tokens": 240, "ignore_eos": True}
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def hasty(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(limits=HASTY)) as server:
        yield server


def read_all(connection):
    """All that comes until the server closes."""
    parts = []
    with suppress(ConnectionResetError):  # it had not read all
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def status_and_error(data):
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def request_bytes(body, headers=b""):
    data = json.dumps(body).encode()
    return POST + headers + b"Content-Length: %d\r\n\r\n" % len(data) + data


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"GET"],
    ids=["nothing", "half", "a word"],
)
def test_headers_that_do_not_come(hasty, begin):
    with hasty.connect() as connection:
        connection.sendall(begin)
        assert status_and_error(read_all(connection)) == (408, "timeout")


def test_headers_that_come_one_by_one_have_no_more_time(hasty):
    with hasty.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        count = 0
        with suppress(ConnectionError):
            while count < 1000:
                connection.sendall(b"a: b\r\n")
                time.sleep(0.01)
                count += 1
        assert 0 < count < 1000


def test_a_second_request_has_the_same_time(hasty):
    with hasty.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert status_and_error(read_all(connection)) == (408, "timeout")


def test_an_idle_connection_is_closed(hasty):
    with hasty.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_all(connection).endswith(b'{"status":"ok"}')


def test_a_body_that_does_not_come(hasty):
    with hasty.connect() as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        assert status_and_error(read_all(connection)) == (408, "timeout")


def test_a_refused_request_cannot_hold_its_connection_with_a_body(server):
    with server.connect() as connection:
        connection.sendall(POST.replace(b"localhost", b"evil.example") + b"Content-Length: 100\r\n\r\n{")
        connection.settimeout(2)  # idle connections have 5 s, which each byte of the body would begin anew
        assert status_and_error(read_all(connection)) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: y\r\n" % i for i in range(200)),
        b"X: " + b"y" * 100_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(50)),
    ],
    ids=["many", "a long one", "many bytes"],
)
def test_large_headers(server, headers):
    for pause in (False, True):  # in one packet, and with the end to come
        with server.connect() as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + headers)
            if pause:
                time.sleep(0.05)
            try:
                connection.sendall(b"\r\n")
            except OSError:
                assert pause  # answered before
            assert status_and_error(read_all(connection))[0] == 431


def test_a_long_path(server):
    with server.connect() as connection:
        connection.sendall(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_and_error(read_all(connection))[0] == 431


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        POST + b"Content-Length: x\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=range(8),
)
def test_what_is_no_request(server, data):
    with server.connect() as connection:
        connection.sendall(data)
        status, _ = status_and_error(read_all(connection))
        assert 400 <= status < 500


def test_too_many_connections(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(limits=LimitsConfig(max_connections=2))) as server:
        with server.connect() as first, server.connect() as second:
            first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")
            second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert second.recv(1 << 16).startswith(b"HTTP/1.1 200")
            with server.connect() as third:
                data = read_all(third)
                assert status_and_error(data) == (503, "too_many_connections")
                assert b"retry-after: 1" in data.lower()
        wait_for(lambda: server.ask("/health").status == 200)


# Clients that leave.


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_request(slow_server, stream):
    before = slow_server.metrics()
    with slow_server.connect() as connection:
        connection.sendall(request_bytes(ENDLESS | {"stream": stream, "n": 3}))
        wait_for(lambda: slow_server.metrics()["pages_running"] > 0)
        assert not slow_server.is_idle()
    wait_for(slow_server.is_idle)
    now = slow_server.metrics()
    assert now["generation_tokens_total"] - before["generation_tokens_total"] < 3 * 240
    wait_for(lambda: not slow_server.served.runs)
    grown = slow_server.metrics()["request_success_total"] - before["request_success_total"]
    assert grown == 3


def test_a_client_that_leaves_while_it_waits(slow_server):
    with slow_server.connect() as first, slow_server.connect() as second:
        for connection in (first, second):
            connection.sendall(request_bytes(ENDLESS | {"n": 8}))
        wait_for(lambda: slow_server.metrics()["num_requests_waiting"] == 8)
        second.close()
        wait_for(lambda: slow_server.metrics()["num_requests_waiting"] == 0)
        assert slow_server.metrics()["num_requests_running"] == 8
    wait_for(slow_server.is_idle)


@pytest.fixture
def slow_server(server, thread, monkeypatch):
    """The engine takes 5 ms more a step, so that a request is under way while a test acts."""
    step = thread.engine.step

    def slow_step():
        time.sleep(0.005)
        return step()

    monkeypatch.setattr(thread.engine, "step", slow_step)
    return server


def test_a_reader_that_stops_reading_is_dropped_and_holds_nobody(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(limits=HASTY)) as server, socket.socket() as connection:
        # Small buffers, which what nobody reads fills at once. An accepted socket has the listening socket's.
        server.uvicorn.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect(server.address)
        body = ENDLESS | {"stream": True, "n": 64}
        connection.sendall(request_bytes(body))
        wait_for(lambda: server.served.runs)
        assert server.ask("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
        wait_for(lambda: not server.served.runs)
        wait_for(server.is_idle)


def test_a_stream_without_news_has_comments(hasty, thread, monkeypatch):
    step = thread.engine.step

    def stuck():
        time.sleep(0.3)
        return step()

    monkeypatch.setattr(thread.engine, "step", stuck)
    answer = hasty.ask("/v1/completions", {"prompt": "a", "max_tokens": 1, "stream": True})
    assert answer.body.count(b": still at work\n\n") >= 2
    assert len(answer.events()) == 1


# Who may ask.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("10.0.0.1", 403),
        ("", 403),
        ("localhost:80:80", 403),
        ("a@localhost", 403),
    ],
)
def test_a_page_elsewhere_cannot_give_its_name_to_this_server(server, host, status):
    assert server.ask("/v1/models", headers={"Host": host}).status == status


def test_hosts_may_be_listed(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(host="0.0.0.0", allowed_hosts=["gpu1.example"])) as server:
        for host, status in (("gpu1.example:80", 200), ("10.0.0.1", 200), ("[fe80::1]", 200), ("other.example", 403)):
            assert server.ask("/v1/models", headers={"Host": host}).status == status, host


def test_a_key_guards_all_but_health_and_the_page(thread, chat_dir):
    with serving(thread, chat_dir, api_key=b"key-1") as server:
        paths = ("//", "/v1/models", "/metrics", "/version", "/ping", "/openapi.json", "/nope", "/tokenizer_info")
        for path in paths:
            answer = server.ask(path)
            assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
            assert "www-authenticate" in answer.headers
        assert server.ask("/v1/completions", {"prompt": "a"}).status == 401
        assert server.ask("/v1/completions", b"{").status == 401
        for path in ("/health", "/"):
            assert server.ask(path).status == 200
        assert server.ask("/", headers={"Host": "evil.example"}).status == 403
        for given in ("Bearer key-1", "bearer key-1"):
            assert server.ask("/v1/models", headers={"Authorization": given}).status == 200, given
        wrong = (
            "Bearer key-2",
            "Bearer",
            "key-1",
            "Bearer key-1 x",
            "Bearer k\xe9y",
            "Basic key-1",
            "Bearer key-",
        )
        for given in wrong:
            assert server.ask("/v1/models", headers={"Authorization": given}).status == 401, given


def test_a_path_adds_no_words_to_the_log(server, caplog):
    caplog.set_level("INFO", "nemotron4.serve")
    server.ask("/v1%20200%0a", headers={"X-Request-Id": "mine"})
    wait_for(lambda: caplog.messages)
    assert re.fullmatch(r"mine GET /v1%20200%0a 404 \d+\.\d\d s", caplog.messages[0])


# Faults and limits of the engine.


def test_a_full_queue(slow_server):
    thread = slow_server.served.thread
    with slow_server.connect() as connection:
        most = thread.engine.config.max_running + thread.engine.config.max_waiting
        prompts = [ENDLESS | {"prompt": ["a"] * 128} for _ in range(most // 128)]
        connections = [slow_server.connect() for _ in prompts]
        for each, body in zip(connections, prompts, strict=True):
            each.sendall(request_bytes(body))
        wait_for(lambda: slow_server.metrics()["num_requests_waiting"] > most - 128 - 8)
        answer = slow_server.ask("/v1/completions", {"prompt": ["a"] * 128})
        assert (answer.status, answer.json()["error"]["code"]) == (429, "queue_full")
        assert answer.headers["retry-after"] == "1"
        for each in connections:
            each.close()
        connection.close()
    wait_for(slow_server.is_idle)
    assert slow_server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_in_a_step_ends_its_requests_alone(server, thread, monkeypatch, stream):
    runner = thread.engine.runner
    monkeypatch.setattr(runner, "run", lambda spans: 1 / 0)
    answer = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 3, "stream": stream})
    monkeypatch.undo()
    if stream:
        error = answer.events()[-1]["error"]
        assert b"[DONE]" not in answer.body
    else:
        assert answer.status == 500
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("engine_fault", "server_error")
    assert "zero" not in error["message"]
    assert server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
    assert server.ask("/health").status == 200
    assert server.is_idle()


def test_two_faults_in_a_row_show_in_health_until_a_step_succeeds(server, thread, monkeypatch):
    monkeypatch.setattr(thread.engine.runner, "run", lambda spans: 1 / 0)
    for _ in range(2):
        assert server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 500
    assert server.ask("/health").status == 503
    monkeypatch.undo()
    assert server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
    assert server.ask("/health").status == 200


def test_a_dead_engine(chat_dir, thread):
    dead = EngineThread(thread.engine)
    dead.close()
    with serving(dead, chat_dir) as server:
        for path, body in (("/health", None), ("/v1/completions", {"prompt": "a"})):
            answer = server.ask(path, body)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_a_fault_of_a_route_is_an_error_object(server, monkeypatch, caplog):
    monkeypatch.setattr(type(server.served.tokenizer), "decode", lambda *_: 1 / 0)
    answer = server.ask("/detokenize", {"tokens": [5]})
    assert (answer.status, answer.json()["error"]["type"]) == (500, "server_error")


# The end.


def test_the_end_waits_for_what_runs_and_turns_the_rest_away(slow_server, thread, chat_dir):
    with serving(thread, chat_dir) as server:
        connection = http.client.HTTPConnection(*server.address, timeout=SECONDS)
        connection.request(
            "POST", "/v1/completions", json.dumps(ENDLESS | {"max_tokens": 40}), {"Content-Type": "application/json"}
        )
        wait_for(lambda: server.served.runs)
        server.uvicorn.handle_exit(15, None)
        wait_for(lambda: server.served.draining)
        for path, body in (("/health", None), ("/v1/completions", {"prompt": "a"})):
            answer = server.ask(path, body)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        answer = connection.getresponse()
        assert json.loads(answer.read())["usage"]["completion_tokens"] == 40
        connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_end_in_time_gets_an_error(slow_server, thread, chat_dir, stream):
    answers = []
    with serving(thread, chat_dir, ServerConfig(drain_seconds=0.05)) as server:
        asking = threading.Thread(
            target=lambda: answers.append(server.ask("/v1/completions", ENDLESS | {"n": 8, "stream": stream}))
        )
        asking.start()
        wait_for(lambda: server.served.runs)
        wait_for(lambda: slow_server.metrics()["num_requests_running"] == 8)
        server.uvicorn.handle_exit(15, None)
        asking.join(SECONDS)
    (answer,) = answers
    error = answer.events()[-1]["error"] if stream else answer.json()["error"]
    assert answer.status == (200 if stream else 503)
    assert error["code"] == "unavailable"
    wait_for(slow_server.is_idle)


def test_a_run_keeps_no_more_than_its_reader_can_miss(slow_server, monkeypatch):
    monkeypatch.setattr("nemotron4_infer.server.run.MAX_UNREAD", 0)
    answer = slow_server.ask("/v1/completions", ENDLESS | {"stream": True})
    assert answer.events()[-1]["error"]["code"] == "unavailable"
    wait_for(slow_server.is_idle)
