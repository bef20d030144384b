"""Choosing tokens: a row's token and numbers depend on its own logits and state alone, and follow the distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_infer import SamplingConfig, next_token_distribution
from nemotron4_infer.sampling import choose as choose_module
from nemotron4_infer.sampling.choose import (
    LEAST_LOGPROB,
    ChoiceError,
    ChosenToken,
    SamplerState,
    choose,
    logprobs_of,
    mean_logprob,
)
from nemotron4_infer.sampling.distribution import _scramble, draw, uniform

VOCAB = 97  # no multiple of a vector's width

samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 7, 60]),
    top_p=st.sampled_from([1.0, 0.5, 0.9]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.sampled_from([{}, {3: 2.5, 96: -100.0}]),
    seed=st.integers(0, 3),
)


def states_of(settings_, logprobs):
    return [
        SamplerState(
            sampling=sampling, choice=row % 2, vocab_size=VOCAB, logprobs=logprobs[row], prompt_ids=(1, 2, row)
        )
        for row, sampling in enumerate(settings_)
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(samplings, min_size=1, max_size=9), st.integers(0, 1000), st.data())
def test_a_permuted_batch_gives_the_same_tokens_and_numbers_in_bits(rows, seed, data):
    order = data.draw(st.permutations(range(len(rows))))
    logprobs = data.draw(st.lists(st.sampled_from([None, 0, 3]), min_size=len(rows), max_size=len(rows)))
    # Columns beyond the vocabulary have the largest logits: they are never chosen.
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, len(rows), VOCAB + 3)).astype(np.float32)) * 2
    logits[:, :, VOCAB:] = 50
    together, permuted, alone = (states_of(rows, logprobs) for _ in range(3))
    permuted = [permuted[row] for row in order]
    for step_SV in logits:
        expected = choose(step_SV, together)
        assert choose(step_SV[order], permuted) == [expected[row] for row in order]
        assert [choose(step_SV[row : row + 1], [state])[0] for row, state in enumerate(alone)] == expected
    assert all(0 <= token < VOCAB for state in together for token in state.generated_ids)


def test_rows_are_computed_alike_however_many_at_a_time_and_by_however_many_threads(monkeypatch):
    rows = [SamplingConfig(temperature=1.0, seed=seed) for seed in range(40)]
    rows += [SamplingConfig(temperature=0.8, top_p=0.9, seed=seed) for seed in range(40)]
    logits_SV = torch.randn(80, 1003, generator=torch.Generator().manual_seed(0)).bfloat16()
    found, before = [], torch.get_num_threads()
    try:
        for most, num_threads in [(1, 1), (80, 1), (80, 2)]:
            torch.set_num_threads(num_threads)
            monkeypatch.setattr(choose_module, "_rows_at_a_time", lambda logits_SV, most=most: most)
            states = [SamplerState(sampling=s, choice=0, vocab_size=1003, logprobs=2) for s in rows]
            found.append((choose(logits_SV, states), logprobs_of(logits_SV, range(80), 3)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_draws_follow_the_distribution():
    logits_V = torch.tensor([0.5, 0.25, 0.15, 0.06, 0.04]).log()
    count = 4_000
    for number, sampling in enumerate(
        [
            {"temperature": 1.0},
            {"temperature": 0.5},
            {"temperature": 1.5, "top_k": 3},
            {"temperature": 1.0, "top_p": 0.8, "min_p": 0.1},
        ]
    ):
        rows = [SamplingConfig(**sampling, seed=7 + number)] * count
        states = [SamplerState(sampling=s, choice=choice, vocab_size=5) for choice, s in enumerate(rows)]
        ids = [token.id for token in choose(logits_V.expand(count, 5), states)]
        p_V = next_token_distribution(logits_V[None], rows[0])[0]
        counts_V = np.bincount(ids, minlength=5)
        kept = p_V.numpy() > 0
        assert not counts_V[~kept].any()
        chi_squared = (((counts_V - count * p_V.numpy()) ** 2)[kept] / (count * p_V.numpy()[kept])).sum()
        assert chi_squared < 18.5, f"{sampling}: 99.9 % of fair draws of 4 degrees of freedom are below"


@pytest.mark.parametrize("vary", ["seed", "choice", "step"])
def test_the_numbers_of_draws_are_uniform_and_unrelated(vary):
    numbers = np.array([uniform(**{"seed": 5, "choice": 1, "step": 2, vary: number}) for number in range(4_000)])
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    share = np.histogram(numbers, bins=20, range=(0, 1))[0] / 200
    assert ((share - 1) ** 2 * 200).sum() < 43.8, "99.9 % of fair draws of 19 degrees of freedom are below"
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.06


def test_a_number_at_the_edge_of_two_tokens_draws_the_second_and_never_one_that_is_impossible():
    p_SV = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).expand(3, 4)
    assert draw(p_SV, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 2, 2]


def test_the_numbers_of_draws_never_change():
    assert [uniform(0, 0, 0), uniform(1, 2, 3), uniform(2**63 - 1, 127, 4095)] == [
        0.5904332085873452,
        0.9368347183911796,
        0.9473471716945466,
    ]
    # SplitMix64's published first numbers from state 0.
    assert [_scramble(0), _scramble(1), _scramble(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_penalties_and_biases_in_their_order():
    sampling = SamplingConfig(
        logit_bias={0: 1.0, 5: -2.0}, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25
    )
    state = SamplerState(sampling=sampling, choice=0, vocab_size=7, prompt_ids=(0, 1, 6), generated_ids=[2, 2, 3])
    logits_V = torch.tensor([1.0, -1.0, 4.0, -3.0, 1.0, 1.0, -torch.inf])
    state.change_logits(logits_V)
    # (1 + 1) / 2; -1 * 2; 4 / 2 - 0.5 - 2 * 0.25; -3 * 2 - 0.5 - 0.25; not seen; 1 - 2
    assert logits_V.tolist() == [1.0, -2.0, 1.0, -6.75, 1.0, -1.0, -math.inf]
    state.generated_ids.append(4)
    logits_V = torch.ones(7)
    state.change_logits(logits_V)
    assert logits_V[2:5].tolist() == [1 / 2 - 0.5 - 2 * 0.25, 1 / 2 - 0.5 - 0.25, 1 / 2 - 0.5 - 0.25]


def test_greedy_takes_the_lowest_of_equal_ids():
    logits_SV = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 0.0], [-torch.inf, 1.0, torch.inf]])
    states = [SamplerState(sampling=SamplingConfig(), choice=0, vocab_size=3) for _ in range(3)]
    assert [token.id for token in choose(logits_SV, states)] == [1, 0, 2]


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1.0, 1e300])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2, "top_p": 0.9, "min_p": 0.2}])
def test_infinite_logits_give_a_token_and_finite_numbers(temperature, filters):
    rows = [[torch.inf, 0, torch.inf, 3e38], [-torch.inf, -torch.inf, 0, -torch.inf], [-3e38, 3e38, 0, 1], [0.0] * 4]
    sampling = SamplingConfig(temperature=temperature, **filters)
    for logits in rows:
        state = SamplerState(sampling=sampling, choice=0, vocab_size=4, logprobs=4)
        tokens = [choose(torch.tensor([logits]), [state])[0] for _ in range(5)]
        assert all(logits[token.id] > -math.inf for token in tokens)
        assert all(LEAST_LOGPROB <= value <= 0 for token in tokens for _, value in (*token.top, (0, token.logprob)))


def test_sequences_without_a_next_token_are_named_and_the_others_are_not_changed():
    logits_SV = torch.zeros(4, 5)
    logits_SV[1, 3], logits_SV[2] = torch.nan, -torch.inf
    states = [SamplerState(sampling=SamplingConfig(temperature=row % 2), choice=0, vocab_size=5) for row in range(4)]
    with pytest.raises(ChoiceError) as caught:
        choose(logits_SV, states)
    assert caught.value.reasons == {1: "the logits are not a number", 2: "no token is possible"}
    assert all(state.generated_ids == [] for state in states)
    assert len(choose(logits_SV[[0, 3]], [states[0], states[3]])) == 2
    with pytest.raises(ChoiceError, match="row 1: the logits are not a number"):
        logprobs_of(logits_SV, [0, 0, 0, 0], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_the_models_own_and_the_tokens_number_is_that_in_top(monkeypatch, dtype):
    monkeypatch.setattr(choose_module, "_rows_at_a_time", lambda logits_SV: 4)
    logits_TV = (torch.randn(11, VOCAB, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    next_ids = logits_TV.argmax(-1).tolist()
    next_ids[3:6] = [0, 1, 2]
    scored = logprobs_of(logits_TV, next_ids, 5)
    expected_TV = logits_TV.double().log_softmax(-1)
    assert [token.id for token in scored] == next_ids
    for row_V, token in zip(expected_TV, scored, strict=True):
        assert token.logprob == pytest.approx(row_V[token.id].item(), abs=1e-5)
        assert [value for _, value in token.top] == pytest.approx(row_V.topk(5).values.tolist(), abs=1e-5)
        assert dict(token.top).get(token.id, token.logprob) == token.logprob
    assert all(token.logprob == max(dict(token.top).values()) for token in [*scored[:3], *scored[6:]])
    penalised = SamplingConfig(temperature=0.3, repetition_penalty=1.5, logit_bias={next_ids[0]: 100.0})
    state = SamplerState(sampling=penalised, choice=0, vocab_size=VOCAB, logprobs=5)
    assert choose(logits_TV[:1], [state]) == scored[:1]
    assert logprobs_of(logits_TV[:2], next_ids[:2], 0)[1].top == ()
    assert len(logprobs_of(logits_TV[:1, :3], [0], 5)[0].top) == 3


def test_choices_are_ranked_by_their_mean():
    assert mean_logprob([ChosenToken(1, -1.0), ChosenToken(2, -2.0)]) == -1.5
    assert mean_logprob([]) == 0
