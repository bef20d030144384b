"""Standard errors and paired differences, against direct computations and resampling."""

import math
import random
import statistics

import pytest

from nemotron4_eval.suites.errors import clustered_stderr, independent_stderr, mean_stderr, paired_difference


def test_mean_of_items():
    scores = [1.0, 0.0, 0.0, 1.0, 1.0, 0.5]
    assert mean_stderr(scores) == pytest.approx(statistics.stdev(scores) / math.sqrt(6), rel=1e-12)
    assert mean_stderr([1.0, 1.0]) == 0
    assert mean_stderr([1.0]) is None


def test_languages_that_share_questions_are_clustered_by_them():
    rng = random.Random(0)
    difficulty = [rng.random() for _ in range(200)]
    languages = [{i: float(rng.random() < p) for i, p in enumerate(difficulty)} for _ in range(5)]
    by_question = [statistics.mean(language[i] for language in languages) for i in range(200)]
    clustered = clustered_stderr(languages)
    assert clustered == pytest.approx(statistics.stdev(by_question) / math.sqrt(200), rel=1e-12)
    assert clustered > 1.2 * independent_stderr([mean_stderr(list(each.values())) for each in languages])

    copies = [languages[0]] * 5  # the same scores five times say no more than once
    assert clustered_stderr(copies) == pytest.approx(mean_stderr(list(languages[0].values())), rel=1e-12)


def test_clusters_of_unequal_languages_agree_with_resampled_questions():
    rng = random.Random(1)
    whole = {i: rng.random() for i in range(120)}
    half = {i: 0.7 * whole[i] + 0.3 * rng.random() for i in range(0, 120, 2)}
    means = []
    for _ in range(3000):
        drawn = rng.choices(range(120), k=120)
        means.append(
            (statistics.fmean(whole[i] for i in drawn) + statistics.fmean(half[i] for i in drawn if i in half)) / 2
        )
    assert clustered_stderr([whole, half]) == pytest.approx(statistics.stdev(means), rel=0.05)


def test_paper_formula():
    """Equation 4 of arXiv 2411.00640, which sums products within clusters; it does not correct for few clusters."""
    languages = [{0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}, {0: 1.0, 1: 0.0, 2: 0.0, 3: 1.0}]
    center, n, clusters = 5 / 8, 8, 4
    products = sum((a[i] - center) * (b[i] - center) for i in range(clusters) for a in languages for b in languages)
    uncorrected = math.sqrt(products) / n
    assert clustered_stderr(languages) == pytest.approx(uncorrected * math.sqrt(clusters / (clusters - 1)), rel=1e-12)


def test_independent_tasks():
    assert independent_stderr([0.03, 0.04]) == pytest.approx(0.025)
    assert independent_stderr([0.03, 0.04], [1, 3]) == pytest.approx(math.hypot(0.03, 0.12) / 4)
    assert independent_stderr([0.03, None]) is None


def test_paired_difference():
    before = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0, "gone": 1.0}
    after = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "new": 0.0}
    found = paired_difference([before], [after])
    assert (found.difference, found.items, found.gained, found.lost) == (0.25, 4, 2, 1)
    assert found.stderr == pytest.approx(statistics.stdev([1, 0, 1, -1]) / 2, rel=1e-12)
    with pytest.raises(ValueError, match="no item in common"):
        paired_difference([{"a": 1.0}], [{"b": 1.0}])


def test_pass_at_k_over_problems():
    solved, samples, k = [0, 3, 5, 1], 5, 2
    estimates = [1 - math.comb(samples - c, k) / math.comb(samples, k) for c in solved]
    assert mean_stderr(estimates) == pytest.approx(statistics.stdev(estimates) / 2, rel=1e-12)
