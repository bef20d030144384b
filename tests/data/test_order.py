"""The arithmetic of the order against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.order import MODULUS, BlockPermutation, SourceSequence, derive_key, floor_sum, integer_weights

WEIGHTS = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12)


def normalised(values):
    return {index: value / sum(values) for index, value in enumerate(values)}


@given(st.integers(0, 60), st.integers(1, 80), st.integers(0, 300), st.integers(0, 300))
def test_floor_sum_equals_brute_force(count, modulus, multiplier, offset):
    expected = sum((multiplier * i + offset) // modulus for i in range(count))
    assert floor_sum(count, modulus, multiplier, offset) == expected


@given(st.integers(0, 40), st.integers(0, MODULUS - 1), st.integers(0, 2 * MODULUS))
def test_floor_sum_at_the_modulus_in_use(count, multiplier, offset):
    expected = sum((multiplier * i + offset) // MODULUS for i in range(count))
    assert floor_sum(count, MODULUS, multiplier, offset) == expected


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40).filter(lambda values: sum(values) > 1e-6))
def test_integer_weights_sum_to_the_modulus(values):
    widths = integer_weights(values)
    assert sum(widths) == MODULUS
    assert min(widths) >= 0
    assert all(width == 0 for width, value in zip(widths, values, strict=True) if value == 0)


@settings(max_examples=40)
@given(WEIGHTS, st.integers(0, MODULUS - 1), st.integers(1, 3_000))
def test_counts_are_exact_at_every_prefix(values, offset, num_samples):
    sequence = SourceSequence(normalised(values), offset)
    sources = sequence.sources_of(np.arange(num_samples, dtype=np.uint64))
    for sample in {0, 1, num_samples // 3, num_samples // 2, num_samples - 1, num_samples}:
        expected = np.bincount(sources[:sample], minlength=len(values)).tolist()
        assert [sequence.count_before(source, sample) for source in range(len(values))] == expected


@settings(max_examples=25)
@given(WEIGHTS, st.integers(0, MODULUS - 1))
def test_realised_weights_stay_close_at_every_prefix(values, offset):
    """The count of a source never strays more than 5 samples from its share in the first 65,536 samples."""
    weights = normalised(values)
    sequence = SourceSequence(weights, offset)
    sources = sequence.sources_of(np.arange(1 << 16, dtype=np.uint64))
    for source, weight in weights.items():
        asked = weight * np.arange(1, len(sources) + 1)
        assert np.abs(np.cumsum(sources == source) - asked).max() < 5


@given(WEIGHTS, st.integers(0, MODULUS - 1), st.integers(0, 10**15))
def test_counts_far_into_a_run_sum_and_step(values, offset, sample):
    sequence = SourceSequence(normalised(values), offset)
    before, after = sequence.counts_before(sample), sequence.counts_before(sample + 1)
    assert sum(before.values()) == sample
    (source,) = sequence.sources_of(np.array([sample], dtype=np.uint64)).tolist()
    assert {key: after[key] - before[key] for key in before} == {key: int(key == source) for key in before}


@given(st.integers(1, 3_000), st.integers(0, MODULUS - 1))
def test_block_permutation_is_a_permutation(size, key):
    permute = BlockPermutation(size, key)
    assert sorted(permute(index) for index in range(size)) == list(range(size))


def test_block_permutations_differ_by_key_and_mix():
    first, second = ([BlockPermutation(1000, key)(i) for i in range(1000)] for key in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20
    assert sum(a == i for i, a in enumerate(first)) < 20
    assert abs(np.corrcoef(first, range(1000))[0, 1]) < 0.15


def test_keys_are_fixed_for_ever():
    """Changing the derivation would change the data of every run that resumes."""
    assert derive_key(1234, "phase", 0) == 9806323129597034364
    assert derive_key(12, "34") != derive_key(1, "234")
    assert BlockPermutation(1000, 7)(123) == 224


@pytest.mark.parametrize("total", [1, 7])
def test_a_weight_of_nothing_takes_no_part(total):
    sequence = SourceSequence({0: 0.0, 3: 1.0, 5: 0.0}, 99)
    assert sequence.counts_before(total) == {3: total}
    assert sequence.count_before(5, total) == 0
