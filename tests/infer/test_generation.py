"""Generation against the plainest possible loop, and every way it stops."""

import re

import pytest
import torch

from nemotron4_infer import SamplingConfig, StopReason, generate
from nemotron4_model import ModelConfig, Transformer, initialise

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    init_std=0.2,
    max_sequence_length=32,
)
NO_EOS = -1


@pytest.fixture(scope="module")
def model():
    model = Transformer(CONFIG)
    initialise(model, 3, CONFIG)
    return model.eval()


def collect(stream):
    """Tokens and the reason of stopping."""
    tokens = []
    while True:
        try:
            tokens.append(next(stream))
        except StopIteration as stop:
            return tokens, stop.value


@torch.no_grad()
def naive_greedy(model, prompt_ids, count):
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt_ids) :]


@pytest.mark.parametrize("prompt_ids", [[3], [3, 14, 15, 92, 65], list(range(20))])
def test_greedy_equals_argmax_over_full_recomputation(model, prompt_ids):
    expected = naive_greedy(model, prompt_ids, 10)
    tokens, reason = collect(generate(model, prompt_ids, SamplingConfig(max_new_tokens=10), NO_EOS))
    assert tokens == expected
    assert reason is StopReason.max_new_tokens


def test_stops_at_end_of_sequence_without_yielding_it(model):
    greedy = naive_greedy(model, [3, 14], 10)
    eos_id = greedy[4]
    tokens, reason = collect(generate(model, [3, 14], SamplingConfig(max_new_tokens=10), eos_id))
    assert tokens == greedy[: greedy.index(eos_id)]
    assert reason is StopReason.end_of_text


def test_stops_when_the_context_is_full(model):
    prompt_ids = list(range(28))
    tokens, reason = collect(generate(model, prompt_ids, SamplingConfig(max_new_tokens=100), NO_EOS))
    # Positions 28..31 are fed back; the token drawn from position 31 has no position of its own.
    assert len(tokens) == 5
    assert tokens[:4] == naive_greedy(model, prompt_ids, 4)
    assert reason is StopReason.context_full


def test_a_seed_gives_the_same_text_and_another_seed_another(model):
    def run(seed):
        return collect(generate(model, [1, 2], SamplingConfig(temperature=1.0, seed=seed, max_new_tokens=20), NO_EOS))

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_tokens_come_one_at_a_time(model):
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        stream = generate(model, [1, 2], SamplingConfig(max_new_tokens=20), NO_EOS)
        next(stream)
        next(stream)
    finally:
        handle.remove()
    assert len(calls) == 2


def test_no_gradients_are_kept_and_the_callers_mode_is_not_changed(model):
    stream = generate(model, [1, 2], SamplingConfig(max_new_tokens=3), NO_EOS)
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompt_ids", "message"),
    [
        ([], "prompt (''): must have at least one token"),
        (
            list(range(32)),
            "prompt (32 tokens): must be shorter than the model's context of 32 tokens; shorten the prompt or use a "
            "model with a longer context",
        ),
    ],
)
def test_impossible_prompts_are_refused_before_the_first_token(model, prompt_ids, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generate(model, prompt_ids, SamplingConfig(), NO_EOS)


def test_no_tokens_at_all_after_one(model):
    sampling = SamplingConfig(max_new_tokens=0)
    assert collect(generate(model, [5], sampling, NO_EOS)) == ([], StopReason.max_new_tokens)
