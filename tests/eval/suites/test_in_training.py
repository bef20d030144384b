"""The requests of tasks that are measured during training, and what is made of their likelihoods."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
from own_tasks import write_tasks

from nemotron4_eval.data.locate import DataSource

pytestmark = [
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the harness extra"),
    # lm-eval and the libraries below it warn about themselves; nothing here can act on that.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def opened(paths, tokenizer, **settings):
    from nemotron4_eval.suites.in_training import open_tasks

    return open_tasks([], paths, DataSource(), tokenizer, **{"context_tokens": 64, "limit": 4} | settings)


def one_nat_a_token(texts, windows):
    nll = np.zeros(len(texts))
    for window in windows:
        nll[window.document] = window.end - window.scored_from
    return nll


def test_windows_score_the_options_of_choices_and_the_right_answers_of_the_rest(paths, tokenizer):
    scored = []

    def nll(texts, windows):
        assert all(window.begin == 0 for window in windows)
        scored.extend(tokenizer.decode(texts[w.document][w.scored_from : w.end].tolist()) for w in windows)
        return one_nat_a_token(texts, windows)

    found = opened(paths, tokenizer).measure(nll)
    two, three = [" bako", " red and blue"], [" vi", " zum", " für"]
    assert scored == [*two, *three, *two, *three, " 1", " 2", " 3", " 4"]
    tokens = [len(tokenizer.encode(f"1 + {i}: {1 + i}")) - len(tokenizer.encode(f"1 + {i}:")) for i in range(4)]
    value, _ = found["sums"].metrics["gold_bits_per_byte"]
    assert value == pytest.approx(sum(tokens) / math.log(2) / 8)
    assert (found["sums"].items, found["sums"].chance) == (4, None)
    assert found["colours"].chance == pytest.approx((2 / 2 + 2 / 3) / 4)


def test_an_answer_longer_than_the_context_is_wrong_and_has_no_bits(paths, tokenizer):
    from nemotron4_eval.suites.in_training import TrainingTasks

    whole, lengths = opened(paths, tokenizer), []
    whole.measure(lambda texts, windows: lengths.extend(w.end - w.scored_from for w in windows) or np.zeros(len(texts)))
    assert lengths.count(max(lengths)) == 2, "`red and blue`, an option of the first and the third question"
    names = {name: name for name in whole.tasks}
    cut = TrainingTasks(whole.tasks, names, tokenizer, context_tokens=max(lengths) - 1, limit=4)
    metrics = cut.measure(lambda texts, windows: np.zeros(len(texts)))["colours"].metrics
    # All that fits is certain: of equally likely options the first is chosen, which the second question has right.
    assert metrics["acc"][0] == 0.25
    assert metrics["gold_bits_per_byte"][0] == 0, "the third question's right answer, which does not fit, is left out"
