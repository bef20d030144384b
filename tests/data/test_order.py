"""The arithmetic of the order against brute force."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.order import MAX_SAMPLES, BlockPermutation, SourceSequence, derive_key

SAMPLES_7T = 7_000_000_000_000 // 4096
"""Samples before token 7e12 of the paper's schedule."""


@st.composite
def blends(draw, max_sources=40):
    """Weights of very different kinds: equal, spread over six decades, one giant, multiples of each other."""
    size = draw(st.integers(1, max_sources))
    kind = draw(st.sampled_from(["any", "alike", "decades", "giant", "halves", "nearly alike"]))
    if kind == "any":
        raw = draw(st.lists(st.floats(0.001, 1.0), min_size=size, max_size=size))
    elif kind == "decades":
        raw = [10.0 ** -draw(st.floats(0, 6)) for _ in range(size)]
    elif kind == "nearly alike":
        raw = [1 + draw(st.floats(0, 1e-3)) for _ in range(size)]
    else:
        tail = {"alike": 1.0, "giant": 1e-6}.get(kind)
        raw = [1.0] + [2.0**-i if tail is None else tail for i in range(1, size)]
    return {index: value / sum(raw) for index, value in enumerate(raw)}


def deviations(sequence, weights, sample):
    """How far each source's count is from its weight, in samples."""
    total = sum(map(Fraction, weights.values()))
    return {
        source: abs(float(sequence.count_before(source, sample) - sample * Fraction(weight) / total))
        for source, weight in weights.items()
    }


@settings(max_examples=40)
@given(blends(), st.integers(1, 3_000))
def test_counts_are_exact_at_every_prefix(weights, num_samples):
    sequence = SourceSequence(weights)
    sources, earlier = sequence.locate(np.arange(num_samples))
    for source in weights:
        assert earlier[sources == source].tolist() == list(range((sources == source).sum()))
    for sample in {0, 1, num_samples // 3, num_samples // 2, num_samples - 1, num_samples}:
        expected = np.bincount(sources[:sample], minlength=len(weights)).tolist()
        assert [sequence.count_before(source, sample) for source in weights] == expected


@settings(max_examples=40)
@given(blends())
def test_realised_weights_are_within_two_samples_at_every_prefix(weights):
    sequence = SourceSequence(weights)
    sources, _ = sequence.locate(np.arange(1 << 15))
    for source, weight in weights.items():
        asked = weight * np.arange(1, len(sources) + 1)
        worst = np.abs(np.cumsum(sources == source) - asked).max()
        assert worst <= sequence.max_deviation[source] + 1e-6
        assert sequence.max_deviation[source] < 2


@settings(max_examples=100)
@given(blends(100), st.integers(0, MAX_SAMPLES))
def test_realised_weights_are_within_two_samples_however_far(weights, sample):
    sequence = SourceSequence(weights)
    for source, deviation in deviations(sequence, weights, sample).items():
        assert deviation <= sequence.max_deviation[source] + 0.02 < 2


@given(blends(), st.one_of(st.integers(0, MAX_SAMPLES - 1), st.integers(-3, 3).map(lambda step: SAMPLES_7T + step)))
def test_samples_far_into_a_run_step_by_one(weights, sample):
    sequence = SourceSequence(weights)
    before, after = sequence.counts_before(sample), sequence.counts_before(sample + 1)
    assert sum(before.values()) == sample
    (source,), (earlier,) = (found.tolist() for found in sequence.locate(np.array([sample])))
    assert earlier == before[source]
    assert {key: after[key] - before[key] for key in before} == {key: int(key == source) for key in before}


def test_a_window_far_into_a_run_is_what_a_walk_from_its_counts_gives():
    """At token 7e12 the closed form equals the sequential definition: each node decides by its own count."""
    weights = {index: 1 / (index + 1) for index in range(60)}
    sequence = SourceSequence(weights)
    counts = sequence.counts_before(SAMPLES_7T)
    for source, earlier in zip(*sequence.locate(np.arange(SAMPLES_7T, SAMPLES_7T + 5_000)), strict=True):
        assert counts[source] == earlier
        counts[source] += 1
    assert counts == sequence.counts_before(SAMPLES_7T + 5_000)


def test_locating_out_of_order_and_with_repeats():
    sequence = SourceSequence({0: 0.7, 1: 0.2, 2: 0.1})
    whole = sequence.locate(np.arange(100))
    chosen = np.array([99, 3, 3, 50, 0])
    for found, expected in zip(sequence.locate(chosen), whole, strict=True):
        assert found.tolist() == expected[chosen].tolist()


@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1))
def test_block_permutation_is_a_permutation(size, key):
    permute = BlockPermutation(size, key)
    assert sorted(permute(index) for index in range(size)) == list(range(size))


def test_block_permutations_differ_by_key_and_mix():
    first, second = ([BlockPermutation(1000, key)(i) for i in range(1000)] for key in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20
    assert sum(a == i for i, a in enumerate(first)) < 20
    assert abs(np.corrcoef(first, range(1000))[0, 1]) < 0.15


def test_keys_never_change():
    """Changing the derivation would change the data of every run that resumes."""
    assert derive_key(1234, "phase", 0) == 9806323129597034364
    assert derive_key(12, "34") != derive_key(1, "234")
    assert BlockPermutation(1000, 7)(123) == 224


def test_the_sequence_of_sources_never_changes():
    sequence = SourceSequence({0: 0.7, 1: 0.15, 2: 0.15})
    assert sequence.locate(np.arange(20))[0].tolist() == [0, 1, 0, 0, 2, 0, 0, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0, 0, 2, 0]
    assert sequence.counts_before(SAMPLES_7T) == {0: 1_196_289_062, 1: 256_347_657, 2: 256_347_656}
    assert sequence.max_deviation == {0: 0.5, 1: 0.75, 2: 0.75}


@pytest.mark.parametrize("total", [1, 7])
def test_a_source_of_weight_zero_is_never_drawn(total):
    sequence = SourceSequence({0: 0.0, 3: 1.0, 5: 0.0})
    assert sequence.counts_before(total) == {3: total}
    assert sequence.count_before(5, total) == 0
    assert sequence.locate(np.array([total]))[0].tolist() == [3]
