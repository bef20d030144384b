"""Properties of the distribution that tokens are drawn from."""

import re

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_infer import SamplingConfig, next_token_distribution
from nemotron4_infer.sampling import distribution

logits = hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-20, 20, width=32)).map(
    lambda array: torch.from_numpy(array)[None]
)
temperatures = st.floats(0.05, 5)


@settings(max_examples=60, deadline=None)
@given(logits, temperatures, st.none() | st.integers(1, 50), st.floats(0.01, 1))
def test_is_a_distribution_that_keeps_ratios_and_the_most_likely_token(logits_BV, temperature, top_k, top_p):
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    p_V = next_token_distribution(logits_BV, sampling)[0].double()
    full_V = torch.softmax(logits_BV.double() / temperature, dim=-1)[0]
    kept = p_V > 0
    assert p_V.sum().item() == pytest.approx(1, abs=1e-5)
    # Where fp32 cannot tell two tokens apart, either may count as the most likely.
    assert full_V[p_V.argmax()] == pytest.approx(full_V.max().item(), rel=1e-5)
    torch.testing.assert_close(p_V[kept], full_V[kept] / full_V[kept].sum(), rtol=1e-3, atol=1e-6)
    if top_k is not None:
        assert kept.sum() <= top_k
    if not kept.all() and kept.any():
        assert full_V[kept].min() >= full_V[~kept].max() - 1e-6, "a dropped token is likelier than a kept one"


@settings(max_examples=60, deadline=None)
@given(logits, temperatures, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_tokens_that_reach_it(logits_BV, temperature, top_p):
    p_V = next_token_distribution(logits_BV, SamplingConfig(temperature=temperature, top_p=top_p))[0]
    sorted_V = torch.softmax(logits_BV / temperature, dim=-1)[0].double().sort(descending=True).values
    num_kept = int((p_V > 0).sum())
    assert sorted_V[:num_kept].sum() >= top_p - 1e-5
    assert sorted_V[: num_kept - 1].sum() < top_p + 1e-5


def test_top_k_comes_before_top_p():
    logits_BV = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    p_BV = next_token_distribution(logits_BV, SamplingConfig(temperature=1.0, top_k=2, top_p=0.5))
    # 0.4 / 0.7 of the two kept already exceeds 0.5; of all four, two tokens would be needed.
    torch.testing.assert_close(p_BV, torch.tensor([[1.0, 0, 0, 0]]))


@settings(max_examples=60, deadline=None)
@given(logits, temperatures, st.integers(1, 40), st.floats(0.01, 1), st.floats(0, 1))
def test_min_p_comes_last_and_is_a_share_of_the_most_likely(logits_BV, temperature, top_k, top_p, min_p):
    before = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    p_V = next_token_distribution(logits_BV, before)[0]
    after = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    kept = next_token_distribution(logits_BV, after)[0] > 0
    share_V = p_V / p_V.max()
    assert kept[share_V > min_p + 1e-6].all()
    assert not kept[share_V < min_p - 1e-6].any()


@pytest.mark.parametrize("num_sorted", [4096, 5])
def test_equal_tokens_at_the_edge_are_kept_by_their_ids(monkeypatch, num_sorted):
    monkeypatch.setattr(distribution, "_SORTED_TOKENS", num_sorted)
    logits_BV = torch.tensor([[0.0, 2, 0, 2, 2, 2, 1, 2], [3, 0, 0, 0, 0, 0, 0, 0]])
    for settings_, kept in [
        ({"top_k": 3}, [[1, 3, 4], [0, 1, 2]]),
        ({"top_p": 0.35}, [[1, 3], [0]]),
        ({"top_k": 7}, [[0, 1, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6]]),
        ({"top_p": 0.9999}, [list(range(8)), list(range(8))]),
    ]:
        p_BV = next_token_distribution(logits_BV, SamplingConfig(temperature=1.0, **settings_))
        assert [row.nonzero()[:, 0].tolist() for row in p_BV] == kept, settings_


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (3, 50), elements=st.sampled_from([-1.0, 0.0, 0.5, 3.0])), st.data())
def test_sorting_only_the_most_likely_changes_nothing(logits, data):
    rows = []
    for _ in range(3):
        top_k = data.draw(st.none() | st.integers(1, 60))
        numbers = {"top_p": data.draw(st.floats(0.01, 1)), "min_p": data.draw(st.floats(0, 1))}
        rows.append(SamplingConfig(temperature=data.draw(temperatures), top_k=top_k, **numbers))
    whole_SV = distribution.kept_probabilities(torch.from_numpy(logits), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "_SORTED_TOKENS", data.draw(st.integers(1, 49)))
        part_SV = distribution.kept_probabilities(torch.from_numpy(logits), rows)
    assert torch.equal(whole_SV, part_SV)


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-320, 5e-324])
def test_the_least_temperatures_are_greedy_too(temperature):
    logits_BV = torch.tensor([[1.0, 3.0, 2.0], [90.0, 1.0, 89.0]])  # each by its own largest
    p_BV = next_token_distribution(logits_BV, SamplingConfig(temperature=temperature))
    assert p_BV.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_temperature_near_zero_is_greedy_and_finite():
    logits_BV = torch.tensor([[1.0, 90.0, 89.9]])
    p_BV = next_token_distribution(logits_BV, SamplingConfig(temperature=1e-30))
    assert p_BV.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"temperature": -0.5}, "sampling.temperature (-0.5): must be 0 (greedy) or a finite number above 0"),
        ({"temperature": float("inf")}, "sampling.temperature (inf): must be 0 (greedy) or a finite number above 0"),
        ({"temperature": float("nan")}, "sampling.temperature (nan): must be 0 (greedy) or a finite number above 0"),
        ({"top_k": 0}, "sampling.top_k (0): must be at least 1, or null for all tokens"),
        ({"top_p": 0.0}, "sampling.top_p (0.0): must be in (0, 1]; 1 keeps all tokens"),
        ({"top_p": 1.5}, "sampling.top_p (1.5): must be in (0, 1]; 1 keeps all tokens"),
        ({"seed": -1}, "sampling.seed (-1): must be in [0, 2^63)"),
        ({"max_new_tokens": -1}, "sampling.max_new_tokens (-1): must be at least 0"),
    ],
)
def test_wrong_settings_are_named(settings_, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SamplingConfig(**settings_)
