"""The items of heldout_continuation are fair, deterministic and answerable."""

import re
from collections import Counter

import pytest

from nemotron4_eval.heldout.heldout_continuation import make_items, write_task
from nemotron4_eval.heldout.text import read_heldout

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SHORT = {"context_characters": 100, "continuation_characters": 30}


@pytest.fixture(scope="module")
def texts(corpus):
    return read_heldout(corpus)


@pytest.fixture(scope="module")
def items(texts):
    return make_items(texts, num_items=40, seed=0, **SHORT)


def test_items_are_four_equal_lengths_and_the_label_is_the_true_continuation(items, corpus):
    assert len(items) == 40
    for item in items:
        assert len(item.context) == 100
        assert [len(choice) for choice in item.choices] == [30] * 4
        documents = corpus.texts[item.source]
        true = [c for c in item.choices if any(item.context + c in document for document in documents)]
        assert item.choices[item.label] in true
        every = [document for texts in corpus.texts.values() for document in texts]
        assert all(any(choice in document for document in every) for choice in item.choices)


def test_labels_are_spread_and_sources_take_turns(items):
    assert all(count >= 4 for count in Counter(item.label for item in items).values())
    assert len(Counter(item.label for item in items)) == 4
    assert Counter(item.source for item in items) == {"english/books": 20, "english/web": 20}


def test_domains_with_too_few_documents_are_left_out_and_shares_are_equal(texts, corpus):
    more = type(corpus)(corpus.tokenizer, {**corpus.texts, "code/py": corpus.texts["english/web"]})
    items = make_items(read_heldout(more), num_items=21, seed=0, **SHORT)
    assert Counter(item.source.split("/")[0] for item in items) == {"english": 11, "code": 10}


def test_items_depend_on_the_seed_and_on_nothing_else(texts, items):
    assert make_items(texts, num_items=40, seed=0, **SHORT) == items
    assert make_items(texts, num_items=40, seed=1, **SHORT) != items


def test_a_corpus_with_too_little_text_is_refused(texts):
    message = (
        "suite.tasks (heldout_continuation): needs 4 held-out documents of at least 5064 characters in one domain; "
        "prepare a corpus with more held-out text or leave the task out"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_items(texts, num_items=4, seed=0, context_characters=5_000)


def test_the_harness_scores_every_item_and_a_model_that_knows_the_answer_is_right(items, loaded, tmp_path, monkeypatch):
    from nemotron4_eval.harness import run as harness

    asked = []

    def oracle(self, requests, **kwargs):
        asked.extend(pair for pair, _, _ in requests)
        truths = {(item.context, item.choices[item.label]) for item in items}
        return [(0.0 if pair in truths else -1.0, False) for pair, _, _ in requests]

    monkeypatch.setattr(harness.EngineLM, "_loglikelihood_tokens", oracle)
    lm = harness.EngineLM(loaded)
    run = harness.run_tasks(lm, [str(write_task(items, tmp_path))])["heldout_continuation"]
    assert (run.metrics["acc"], run.stderrs["acc"], run.items) == (1.0, 0.0, 40)
    assert sorted(asked) == sorted((item.context, choice) for item in items for choice in item.choices)


def test_the_harness_runs_on_a_real_model(items, loaded, tmp_path):
    from nemotron4_eval.harness.model import EngineLM
    from nemotron4_eval.harness.run import run_tasks

    run = run_tasks(EngineLM(loaded), [str(write_task(items, tmp_path))])["heldout_continuation"]
    assert 0 <= run.metrics["acc"] <= 1
    assert run.items == 40
