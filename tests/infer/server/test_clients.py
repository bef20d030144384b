"""Clients that others wrote: OpenAI's own, and a fuzzer of the OpenAPI page. tests/eval has the harness's."""

import pytest

openai = pytest.importorskip("openai")

PROMPT = "there theme day"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_completions(client):
    settings = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 3, "temperature": 1.0}
    whole = client.completions.create(**settings, n=2, logprobs=1)
    pieces = {0: "", 1: ""}
    for event in client.completions.create(**settings, n=2, stream=True, stream_options={"include_usage": True}):
        for choice in event.choices:
            pieces[choice.index] += choice.text
        usage = event.usage
    assert pieces == {choice.index: choice.text for choice in whole.choices}
    assert usage.total_tokens == whole.usage.total_tokens
    assert len(whole.choices[0].logprobs.tokens) == usage.completion_tokens / 2
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_openai_chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    settings = {"model": "tiny", "messages": messages, "max_completion_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
    text = ""
    for event in client.chat.completions.create(**settings, stream=True):
        text += event.choices[0].delta.content or ""
        finish = event.choices[0].finish_reason
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason


def test_openai_errors(client, server):
    for settings, error in (
        ({"model": "other"}, openai.NotFoundError),
        ({"temperature": 3}, openai.BadRequestError),
        ({"max_tokens": 1000}, openai.BadRequestError),
    ):
        with pytest.raises(error) as caught:
            client.completions.create(**({"model": "tiny", "prompt": PROMPT} | settings))
        assert caught.value.body["message"]
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt="a" * 1_000_001)
    assert caught.value.status_code == 413


def test_openai_sees_a_late_failure(client, thread, monkeypatch):
    monkeypatch.setattr(thread.engine.runner, "run", lambda spans: 1 / 0)
    with pytest.raises(openai.APIError, match="its log says which"):
        list(client.completions.create(model="tiny", prompt=PROMPT, stream=True))


def test_a_fuzzer_gets_what_the_page_says(server):
    """Bodies that the OpenAPI page allows, and such as it does not: no fault, and answers of the kind that it says."""
    schemathesis = pytest.importorskip("schemathesis")
    # Examples of what the page allows for a completion take seconds to find.
    modes = {"/v1/completions": ["NEGATIVE"], "/tokenize": ["POSITIVE"], "/detokenize": ["POSITIVE", "NEGATIVE"]}
    fuzz(schemathesis, server, 4, lambda path, method: modes.get(path, []))


@pytest.mark.slow
def test_a_fuzzer_gets_what_the_page_says_for_long(server):
    schemathesis = pytest.importorskip("schemathesis")
    fuzz(schemathesis, server, 200, lambda path, method: ["POSITIVE"] + ["NEGATIVE"] * (method == "post"))


def fuzz(schemathesis, server, examples, modes):
    import hypothesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses = set()
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for operation in [found.ok() for found in schema.get_all_operations()]:
        for mode in modes(operation.path, operation.method):
            strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

            @settings
            @hypothesis.given(case=strategy)
            def ask(case):
                answer = case.call()
                # What is allowed may still be refused: the page does not know of the context, or of the vocabulary.
                case.validate_response(answer, excluded_checks=[positive_data_acceptance])
                statuses.add(answer.status_code)

            ask()
    assert {200, 400} <= statuses <= {200, 400, 404}
    assert server.is_idle()
