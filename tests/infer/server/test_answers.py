"""What the routes answer: objects of OpenAI's contract, whole and as events, that agree with each other."""

import json
import re
from itertools import chain

import pytest
from served import serving

from nemotron4_infer.serve_job import MetricNames, ServerConfig

LONG = {"max_tokens": 12, "temperature": 1.0, "seed": 7, "ignore_eos": True}


def complete(server, **body):
    answer = server.ask("/v1/completions", {"prompt": "there", "temperature": 0} | body)
    assert answer.status == 200, answer.body
    return answer.json()


def streamed(server, path="/v1/completions", **body):
    answer = server.ask(path, {"stream": True} | body)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    return answer.events()


def chat(server, *messages, **body):
    given = {"messages": [{"role": "user", "content": text} for text in messages], "max_tokens": 12} | body
    answer = server.ask("/v1/chat/completions", given)
    assert answer.status == 200, answer.body
    return answer.json()


def joined(events):
    texts = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def test_a_completion_is_what_the_engine_says_after_an_end_of_sequence_token(server):
    tokenizer = server.served.tokenizer
    whole = complete(server, prompt="there", max_tokens=5, ignore_eos=True)
    ids = [tokenizer.eos_id, *tokenizer.encode("there")]
    assert whole["choices"] == complete(server, prompt=ids, max_tokens=5, ignore_eos=True)["choices"]
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["logprobs"] is None
    assert whole["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": len(ids),
        "completion_tokens": 5,
        "total_tokens": len(ids) + 5,
        "prompt_tokens_details": None,
    }
    assert (whole["object"], whole["model"]) == ("text_completion", "tiny")
    assert whole["id"].startswith("cmpl-")
    assert whole["system_fingerprint"].startswith("fp_")


def test_prompts_of_all_four_kinds_and_the_order_of_choices(server):
    ids = server.served.tokenizer.encode("there")
    one = complete(server, **LONG)["choices"][0]["text"]
    for prompt in (["there"], ids, [ids]):
        assert complete(server, prompt=prompt, **LONG)["choices"][0]["text"] == one
    both = complete(server, prompt=["there", "the of"], n=2, **LONG)["choices"]
    other = complete(server, prompt="the of", n=2, **LONG)["choices"]
    assert [choice["index"] for choice in both] == [0, 1, 2, 3]
    assert [choice["text"] for choice in both[2:]] == [choice["text"] for choice in other]
    assert len({choice["text"] for choice in both}) == 4


@pytest.mark.parametrize("extra", [{}, {"n": 2}, {"prompt": ["there", "the"], "echo": True}, {"stop": ["e", "day"]}])
def test_the_events_say_what_the_whole_answer_says(server, extra):
    body = {"prompt": "there", **LONG, "logprobs": 2, **extra}
    whole = complete(server, **body)
    events = streamed(server, **body, stream_options={"include_usage": True})
    assert joined(events) == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    for choice in whole["choices"]:
        parts = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            given = [part["logprobs"][name] for part in parts if part["logprobs"]]
            assert list(chain.from_iterable(given)) == values


def test_without_usage_there_is_none(server):
    assert all("usage" not in event for event in streamed(server, prompt="there", **LONG))


def test_log_probabilities_of_an_echo_are_of_every_token(server):
    tokenizer = server.served.tokenizer
    choice = complete(server, prompt="there theme", echo=True, max_tokens=3, logprobs=1, ignore_eos=True)["choices"][0]
    found = choice["logprobs"]
    prompt = [tokenizer.decode([token]) for token in tokenizer.encode("there theme")]
    assert found["tokens"][: len(prompt)] == prompt
    assert len(found["tokens"]) == len(prompt) + 3
    assert choice["text"].startswith("there theme")
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert all(logprob < 0 for logprob in found["token_logprobs"][1:])
    for token, logprob, likely in list(zip(*(found[name] for name in list(found)[:3]), strict=True))[1:]:
        assert likely[token] == logprob <= max(likely.values())
        assert len(likely) in (1, 2)
    # The generated tokens are the most likely ones.
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
    for token, offset in zip(found["tokens"][: len(prompt)], found["text_offset"], strict=False):
        assert "there theme".startswith(token, offset)


def test_only_the_prompt_may_be_scored(server):
    choice = complete(server, prompt="there theme", echo=True, max_tokens=0, logprobs=0)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("there theme", "length")
    assert len(choice["logprobs"]["tokens"]) == len(server.served.tokenizer.encode("there theme"))


def test_the_best_of_some_are_those_of_the_highest_mean(server):
    every = complete(server, n=5, logprobs=0, **LONG)["choices"]
    means = [sum(choice["logprobs"]["token_logprobs"]) / 12 for choice in every]
    best = complete(server, n=2, best_of=5, **LONG)
    order = sorted(range(5), key=lambda choice: -means[choice])[:2]
    assert [choice["text"] for choice in best["choices"]] == [every[choice]["text"] for choice in order]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["choices"][0]["logprobs"] is None
    assert best["usage"]["completion_tokens"] == 5 * 12


def test_a_seed_repeats_and_no_seed_does_not(server):
    body = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    assert complete(server, seed=3, **body)["choices"] == complete(server, seed=3, **body)["choices"]
    assert complete(server, **body)["choices"] != complete(server, **body)["choices"]


def test_the_token_that_ends_a_text_is_counted_and_in_the_arrays_but_not_in_the_text(server):
    eos = server.served.tokenizer.eos_id
    whole = complete(server, logit_bias={str(eos): 100}, logprobs=0, max_tokens=5)
    (choice,) = whole["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == ["</s>"]
    assert whole["usage"]["completion_tokens"] == 1


def test_a_part_of_a_character_is_spelled_as_bytes(server):
    tokenizer = server.served.tokenizer
    euro = tokenizer.encode("€")
    assert len(euro) == 3
    found = complete(server, prompt="a€b", echo=True, max_tokens=0, logprobs=0)["choices"][0]["logprobs"]
    assert found["tokens"] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b"]
    assert found["text_offset"] == [0, 1, 1, 1, 2]


def test_chat(server):
    whole = chat(server, "1 + 1?", n=2, seed=1, logprobs=True, top_logprobs=2, ignore_eos=True)
    assert whole["object"] == "chat.completion"
    for choice in whole["choices"]:
        content = choice["logprobs"]["content"]
        spelled = bytes(byte for token in content for byte in token["bytes"]).decode(errors="replace")
        assert choice["message"] == {"role": "assistant", "content": spelled, "refusal": None}
        assert all(len(token["top_logprobs"]) == 2 for token in content)
    messages = [{"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]}]
    body = {"messages": messages, "n": 2, "seed": 1, "max_completion_tokens": 12, "max_tokens": 1, "ignore_eos": True}
    events = streamed(server, "/v1/chat/completions", **body)
    for choice in whole["choices"]:
        parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert parts[-1]["delta"] == {}
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        text = "".join(part["delta"].get("content", "") for part in parts)
        assert text == choice["message"]["content"]


def test_a_turn_marker_ends_an_answer(server):
    turn = server.served.tokenizer.id_of("<extra_id_1>")
    whole = chat(server, "1 + 1?", logit_bias={str(turn): 100})
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["choices"][0]["message"]["content"] == ""


def test_an_answer_may_fill_the_context(server):
    whole = chat(server, "1 " * 100, max_tokens=None, ignore_eos=True, temperature=0)
    assert whole["usage"]["prompt_tokens"] < 256
    assert whole["usage"]["total_tokens"] == 256 or whole["choices"][0]["finish_reason"] == "stop"


def test_models(server):
    (model,) = server.ask("/v1/models").json()["data"]
    assert model == server.ask("/v1/models/tiny").json()
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 256)
    missing = server.ask("/v1/models/other")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")
    missing = server.ask("/v1/completions", {"prompt": "a", "model": "other"})
    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_tokens_and_text(server):
    text = "naïve 42\n"
    found = server.ask("/tokenize", {"prompt": text}).json()
    assert found == {
        "tokens": server.served.tokenizer.encode(text),
        "count": len(found["tokens"]),
        "max_model_len": 256,
    }
    assert server.ask("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
    special = server.ask("/tokenize", {"prompt": text, "add_special_tokens": True}).json()["tokens"]
    assert special == [server.served.tokenizer.eos_id, *found["tokens"]]
    assert server.ask("/tokenizer_info").json()["eos_token"] == "</s>"


def test_health_version_and_request_ids(server):
    assert server.ask("/health").json() == {"status": "ok"}
    assert server.ask("/ping").status == 200
    assert server.ask("/version").json()["version"]
    assert server.ask("/version").json()["equal_bits"] is True
    assert server.ask("/version", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made_up = server.ask("/version", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
    assert len(made_up) == 24
    answer = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"X-Request-Id": "mine"})
    assert answer.json()["id"] == "cmpl-mine"


def test_metrics_count_what_was_done(server):
    before = server.metrics()
    complete(server, n=2, **LONG)
    server.ask("/v1/completions", {"prompt": "there", "stream": True, **LONG})
    now = server.metrics()
    grown = {name: now[name] - before[name] for name in now}
    assert grown["request_success_total"] == 3
    assert grown["generation_tokens_total"] == 3 * 12
    assert grown["request_generation_tokens_sum"] == 3 * 12
    assert grown["time_to_first_token_seconds_count"] == 3
    assert grown["inter_token_latency_seconds_count"] == 3 * 11
    for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time"):
        assert grown[f"{name}_seconds_count"] == 3
    waited, computed = grown["request_queue_time_seconds_sum"], grown["request_prefill_time_seconds_sum"]
    assert waited > 0
    assert 0 < computed < grown["time_to_first_token_seconds_sum"] - waited + 1e-6
    assert (
        grown["iteration_tokens_total_sum"] >= 3 * 11 + grown["prompt_tokens_total"] - grown["prefix_cache_hits_total"]
    )
    assert 12 <= grown["iteration_tokens_total_count"] <= 3 * 12
    pages = ("pages_free", "pages_cached", "pages_running")
    assert sum(grown[name] for name in pages) == 0
    assert now["pages_free"] > 0


def test_a_text_may_have_to_match_a_schema(server):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = complete(server, response_format=wanted, max_tokens=60, temperature=1.0, seed=1)["choices"][0]["text"]
    assert json.loads(text) in ({"a": True}, {"a": False})
    text = chat(server, "1?", response_format={"type": "json_object"}, max_tokens=3)["choices"][0]["message"]["content"]
    assert text.startswith("{")
    bad = {"type": "json_schema", "json_schema": {"schema": {"type": "no type"}}}
    answer = server.ask("/v1/completions", {"prompt": "a", "response_format": bad})
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("json_schema (")
    assert answer.json()["error"]["param"] == "response_format"


def test_metrics_may_have_the_names_of_vllm(thread, chat_dir):
    with serving(thread, chat_dir, ServerConfig(metrics=MetricNames.vllm, model_name="other")) as server:
        text = server.ask("/metrics").body.decode()
    names = (
        "num_requests_running",
        "kv_cache_usage_perc",
        "prompt_tokens_total",
        "time_to_first_token_seconds_bucket",
        "iteration_tokens_total_bucket",
    )
    for name in names:
        assert re.search(rf'^vllm:{name}{{(.*,)?model_name="other"}} ', text, re.MULTILINE), name
    assert "nemotron4_" not in text


def test_json_that_is_sent_is_json(server):
    choice = complete(server, prompt="a€b\u2028", echo=True, max_tokens=1)
    assert json.loads(json.dumps(choice)) == choice
