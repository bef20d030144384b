"""Bad input: each case is answered with an error object that names the field, and nothing that was sent."""

import http.client
import json

import pytest
from served import serving

from nemotron4_infer.serve_job import LimitsConfig, ServerConfig

SECRET = "hunter2"


def refused(server, path, body, headers=None, method=None):
    """The status and the error of an answer that is an error object and leaves the server idle."""
    answer = server.ask(path, body, headers, method)
    assert answer.status >= 400, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert len(error["message"]) < 300
    assert SECRET not in error["message"]
    return answer.status, error


COMPLETIONS = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt.0"),
    ({"prompt": ["a", ""]}, "prompt.1"),
    ({"prompt": ["a", 1]}, "prompt.1"),
    ({"prompt": [1, "a"]}, "prompt.1"),
    ({"prompt": [1, 2.0]}, "prompt.1"),
    ({"prompt": [True]}, "prompt.0"),
    ({"prompt": [[1], "a"]}, "prompt.1"),
    ({"prompt": {"a": SECRET}}, "prompt"),
    ({"prompt": [-1]}, "prompt.0"),
    ({"prompt": [10**30]}, "prompt.0"),
    ({"prompt": [404]}, "prompt"),
    ({"prompt": [[5], [404]]}, "prompt"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens"),
    ({"prompt": "a", "max_tokens": "3"}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 3.5}, "max_tokens"),
    ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "temperature": 2.1}, "temperature"),
    ({"prompt": "a", "temperature": -0.1}, "temperature"),
    ({"prompt": "a", "temperature": True}, "temperature"),
    ({"prompt": "a", "temperature": SECRET}, "temperature"),
    ({"prompt": "a", "top_p": 0}, "top_p"),
    ({"prompt": "a", "top_k": 1.5}, "top_k"),
    ({"prompt": "a", "min_p": 2}, "min_p"),
    ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
    ({"prompt": "a", "frequency_penalty": -3}, "frequency_penalty"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": 129}, "n"),
    ({"prompt": "a", "n": 10**40}, "n"),
    ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a"] * 65, "n": 2}, "n"),
    ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
    ({"prompt": "a", "stop": ""}, "stop"),
    ({"prompt": "a", "stop": ["x" * 257]}, "stop.0"),
    ({"prompt": "a", "stop": 3}, "stop"),
    ({"prompt": "a", "stop": [3]}, "stop.0"),
    ({"prompt": "a", "stop_token_ids": [404]}, "stop_token_ids"),
    ({"prompt": "a", "seed": 2**63}, "seed"),
    ({"prompt": "a", "seed": 1.5}, "seed"),
    ({"prompt": "a", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"404": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"-1": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"²": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {SECRET: 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias.'5'"),
    ({"prompt": "a", "logit_bias": [1]}, "logit_bias"),
    ({"prompt": "a", "logprobs": 6}, "logprobs"),
    ({"prompt": "a", "logprobs": True}, "logprobs"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "echo": 1}, "echo"),
    ({"prompt": "a", "stream": "true"}, "stream"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": True, "stream_options": []}, "stream_options"),
    ({"prompt": "a", "response_format": {"type": "xml"}}, "response_format.type"),
    ({"prompt": "a", "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"prompt": "a", "cache_salt": "x" * 257}, "cache_salt"),
    ({"prompt": "a", "model": 3}, "model"),
    ([], None),
    ("text", None),
    (None, None),
]


@pytest.mark.parametrize(("body", "param"), COMPLETIONS, ids=lambda value: str(value)[:40])
def test_a_completion_that_cannot_be(server, body, param):
    status, error = refused(server, "/v1/completions", json.dumps(body).encode())
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")


USER = {"role": "user", "content": "a"}
CHATS = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
    ({"messages": [USER, {"role": "user"}]}, "messages.1.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]}, "messages.0.content.0.type"),
    ({"messages": [USER, {"role": "assistant", "content": "b"}]}, "messages"),
    ({"messages": [USER, {"role": "system", "content": "b"}, USER]}, "messages"),
    ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
    ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": [USER], "logprobs": 1}, "logprobs"),
    ({"messages": [USER], "max_completion_tokens": 0}, "max_completion_tokens"),
    ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
    ({"messages": [USER], "n": 129}, "n"),
    ({"messages": [USER], "tools": [{"type": "function"}]}, "tools"),
]


@pytest.mark.parametrize(("body", "param"), CHATS, ids=lambda value: str(value)[:40])
def test_a_chat_that_cannot_be(server, body, param):
    status, error = refused(server, "/v1/chat/completions", body)
    assert (status, error["param"]) == (400, param)


NO_JSON = {
    "empty": b"",
    "no JSON": b"prompt=a",
    "cut": b'{"prompt": "a"',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "temperature": Infinity}',
    "1e999": b'{"prompt": 1e999, "temperature": 1e999}',
    "not UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "surrogate": rb'{"prompt": "\ud800"}',
    "surrogates": rb'{"prompt": "\udc00\ud800"}',
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"prompt": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "digits": b'{"prompt": "a", "n": ' + b"9" * 5_000 + b"}",
    "digits in an id": b'{"prompt": [' + b"9" * 5_000 + b"]}",
    "compressed": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("name", NO_JSON)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_what_is_no_json(server, name, path):
    assert refused(server, path, NO_JSON[name])[0] == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""])
def test_another_content_type(server, kind):
    body = b'{"prompt": "a", "max_tokens": 1}'
    assert refused(server, "/v1/completions", body, {"Content-Type": kind})[0] == 400
    assert server.ask("/v1/completions", body, {"Content-Type": "Application/JSON; charset=utf-8"}).status == 200


def test_text_that_is_odd_is_text(server):
    for text in ("\0", "a\0b", "\ufeff", "\u2581", "<extra_id_1></s>", "😀" * 10, "\r\n\x7f", "e\u0301"):
        assert server.ask("/v1/completions", {"prompt": text, "max_tokens": 1}).status == 200, repr(text)
        assert server.ask("/tokenize", {"prompt": text}).status == 200, repr(text)


def test_a_prompt_and_an_answer_over_the_context(server):
    for extra in ({"prompt": "there", "max_tokens": 10**9}, {"prompt": [5] * 250}, {"prompt": [5] * 300_000}):
        status, error = refused(server, "/v1/completions", extra)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "256" in error["message"]
    message = refused(server, "/v1/completions", {"prompt": [5] * 249, "max_tokens": 7})[1]["message"]
    assert message == "prompt: has 250 tokens, which with max_tokens (7) is more than the context of 256"
    assert server.ask("/v1/completions", {"prompt": [5] * 249, "max_tokens": 6}).status == 200
    status, error = refused(server, "/v1/completions", {"prompt": "there " * 100_000})
    assert (status, error["code"]) == (400, "context_length_exceeded")
    for messages in ([USER | {"content": "there " * 100_000}], [USER] * 257, [USER | {"content": "a" * 200}] * 3):
        error = refused(server, "/v1/chat/completions", {"messages": messages})[1]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert server.is_idle()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", None),
        ("/v1/completions", "GET", 405),
        ("/v1/completions/", "POST", 404),
        ("/v1/completions", "OPTIONS", 405),
        ("/v1/models", "DELETE", 405),
        ("/docs", "GET", 404),
        ("/%ff%0d%0a", "GET", 404),
        ("//", "GET", 404),
        ("/health", "POST", 405),
        ("/v1/completions", "BREW", 405),
    ],
)
def test_a_route_that_does_not_exist(server, path, method, status):
    if status is not None:
        assert refused(server, path, None, method=method)[0] == status


def test_an_id_without_a_token_is_named(server):
    most = server.served.tokenizer.vocab_size - 1
    for body in (
        {"prompt": [404]},
        {"prompt": "a", "stop_token_ids": [404]},
        {"prompt": "a", "logit_bias": {"404": 1}},
    ):
        message = refused(server, "/v1/completions", body)[1]["message"]
        assert message.endswith(f": the id 404 has no token; ids are 0 to {most}")


def test_other_routes_check_ids_too(server):
    for tokens in ([404], [-1], [True], ["1"], "1", None):
        assert refused(server, "/detokenize", {"tokens": tokens})[0] == 400
    assert server.ask("/detokenize", {"tokens": []}).json() == {"prompt": ""}
    assert refused(server, "/tokenize", {"prompt": ["a"]})[0] == 400


def test_a_large_body(server):
    limit = server.served.config.limits.body_bytes
    body = json.dumps({"prompt": "a", "max_tokens": 1, "user": ""}).encode()
    fits = body[:-2] + b"x" * (limit - len(body)) + b'"}'
    assert len(fits) == limit
    assert server.ask("/v1/completions", fits).status == 200
    assert refused(server, "/v1/completions", fits + b" ")[0] == 413
    # Without a length: chunks.
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("POST", "/v1/completions", iter([fits, b" " * 10]), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.getheader("connection") == "close"
    assert json.loads(answer.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_fields_that_nobody_knows(server, thread, chat_dir):
    body = {"prompt": "a", "max_tokens": 1, "do_sample": True, "user": "me", "metadata": {}}
    assert server.ask("/v1/completions", body).status == 200
    with serving(thread, chat_dir, ServerConfig(refuse_unknown_fields=True)) as strict:
        status, error = refused(strict, "/v1/completions", body)
        assert (status, error["message"]) == (400, "unknown fields: 'do_sample'")
        del body["do_sample"]
        assert strict.ask("/v1/completions", body).status == 200


def test_a_smaller_cap_on_texts(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(limits=LimitsConfig(max_choices=2))) as server:
        assert refused(server, "/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 1})[0] == 400
        assert server.ask("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 1}).status == 200


def test_everything_refused_left_the_engine_idle(server):
    assert server.is_idle()
