"""Results on disk: found again for the same model and request, and for no other."""

import dataclasses
import re

import pytest
import torch
from lm_eval.api.instance import Instance

from nemotron4_eval.harness.model import EngineLM
from nemotron4_model import Transformer, initialise

PAIRS = [("the red fox", " runs over"), ("the red fox", " sleeps"), ("a small bird", " sings")]
SETTINGS = [{"max_gen_toks": 6}, {"max_gen_toks": 6, "do_sample": True, "temperature": 1.0}]


def everything(lm):
    scores = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in PAIRS])
    rolling = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("the red fox " * 30,), 0)])
    asked = [Instance("generate_until", {}, ("the red", settings), 0) for settings in SETTINGS for _ in range(2)]
    return scores, rolling, lm.generate_until(asked)


class Broken:
    """In place of what computes: fails after `left` results."""

    def __init__(self, workers, left):
        self._workers, self._left = workers, left

    def _some(self, results):
        for result in results:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield result

    def score(self, batches):
        return self._some(self._workers.score(batches))

    def generate(self, prompts):
        return self._some(self._workers.generate(prompts))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "results.sqlite"


def broken(lm, left):
    lm._workers = Broken(lm._workers, left)
    return lm


def test_what_was_computed_is_not_computed_again(loaded, path):
    first = everything(EngineLM(loaded, cache=path))
    assert everything(broken(EngineLM(loaded, cache=path), 0)) == first


@pytest.mark.parametrize("left", [1, 2, 4])
def test_an_evaluation_goes_on_where_it_was_stopped(loaded, path, left):
    expected = everything(EngineLM(loaded))
    with pytest.raises(KeyboardInterrupt):
        everything(broken(EngineLM(loaded, cache=path), left))
    # Two batches and three texts: the repeated greedy request is computed once.
    assert everything(broken(EngineLM(loaded, cache=path), 5 - left)) == expected


def test_results_of_another_model_format_start_or_seed_are_not_taken(loaded, path):
    everything(EngineLM(loaded, cache=path))
    other = Transformer(loaded.model.config)
    initialise(other, 1, loaded.model.config)
    others = [
        EngineLM(loaded, cache=path, document_start="none"),
        EngineLM(dataclasses.replace(loaded, model=other.eval()), cache=path),
        EngineLM(dataclasses.replace(loaded, model=Transformer(other.config).to(torch.bfloat16).eval()), cache=path),
    ]
    for lm in others:
        with pytest.raises(KeyboardInterrupt):
            broken(lm, 0).loglikelihood([Instance("loglikelihood", {}, PAIRS[0], 0)])
    lm = broken(EngineLM(loaded, cache=path, seed=1), 0)
    greedy, sampled = (Instance("generate_until", {}, ("the red", settings), 0) for settings in SETTINGS)
    lm.generate_until([greedy])
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until([sampled])


def test_a_file_that_is_no_cache_is_named(loaded, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    message = f"cache ({path}): is not a cache of results (file is not a database); delete it or name another"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        EngineLM(loaded, cache=path)
