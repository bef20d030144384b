"""pass@k against the binomials that define it."""

import math

import pytest

from nemotron4_eval.code.pass_at_k import pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(5, 2, 1, 0.4), (5, 2, 2, 0.7), (20, 3, 10, 0.894737), (200, 10, 10, 0.408548), (10, 6, 5, 1), (1, 1, 1, 1)],
)
def test_known_values(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=5e-7)


def test_equals_the_definition_for_every_small_number():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                expected = 1 - math.comb(n - c, k) / math.comb(n, k)
                assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12), (n, c, k)


def test_too_few_programs_are_an_error_and_no_smaller_k():
    with pytest.raises(ValueError, match=r"pass@10 \(10\): cannot be estimated from 9 programs a problem; sample 10"):
        pass_at_k(9, 9, 10)
