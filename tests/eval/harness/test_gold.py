"""Bits per byte of right answers, against values computed by hand."""

import math

import pytest

pytest.importorskip("lm_eval", reason="needs the harness extra")

from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from nemotron4_eval.harness.gold import GoldBits, gold_bits_per_byte, gold_requests

# lm-eval and the libraries below it warn about themselves; nothing here can act on that.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class BitsOf(LM):
    """A model that gives each (context, continuation) of a table so many bits, and knows nothing else."""

    def __init__(self, bits):
        super().__init__()
        self.bits, self.asked = bits, []

    def loglikelihood(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [(-self.bits[request.args] * math.log(2), False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise AssertionError

    def generate_until(self, requests, disable_tqdm=False):
        raise AssertionError


def built(docs, **config):
    """A task of the harness over items in memory, its requests built."""
    from datasets import Dataset

    config = {
        "task": "t",
        "test_split": "test",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
    } | config
    task = TaskManager(include_defaults=False).load([config])["tasks"]["t"]
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests()
    return task


def gold_of(task, bits):
    lm = BitsOf(bits)
    return gold_bits_per_byte(lm, {"t": task}).get("t"), lm.asked


GENERATES = {"output_type": "generate_until", "doc_to_text": "Q: {{q}}\nA:", "generation_kwargs": {"until": ["\n"]}}


def test_bits_of_all_answers_over_all_their_bytes_with_the_error_of_a_ratio():
    docs = [{"q": "a", "answer": "yes"}, {"q": "b", "answer": "für"}, {"q": "c", "answer": "no"}]
    task = built(docs, doc_to_target="answer", **GENERATES)
    found, asked = gold_of(task, {("Q: a\nA:", " yes"): 6, ("Q: b\nA:", " für"): 12, ("Q: c\nA:", " no"): 6})
    # 4, 5 and 3 bytes; 24 bits over 12 bytes are 2; what remains of each is 6 - 8, 12 - 10 and 6 - 6.
    assert found == GoldBits(bits_per_byte=pytest.approx(2), stderr=pytest.approx(math.sqrt(8 * 3 / 2) / 12), items=3)
    assert len(asked) == 3


def test_in_multiple_choice_the_right_option_is_not_scored_again():
    docs = [{"q": "x", "options": ["one", "two"], "right": 1}, {"q": "y", "options": ["one", "two"], "right": 0}]
    kind = {"doc_to_text": "{{q}}:", "doc_to_choice": "options", "doc_to_target": "right"}
    task = built(docs, output_type="multiple_choice", **kind)
    for instance, bits in zip(task.instances, (1, 8, 4, 1), strict=True):
        instance.resps.append((-bits * math.log(2), False))
    found, asked = gold_of(task, {})
    assert found.bits_per_byte == pytest.approx((8 + 4) / 8)
    assert asked == []


def test_options_in_the_context_are_scored_by_what_follows():
    docs = [{"options": ["The cat", "The dog"], "right": 1, "rest": "barked."}]
    kind = {"doc_to_text": "{{right}}", "doc_to_choice": "options", "doc_to_target": "rest"}
    task = built(docs, output_type="multiple_choice", **kind)
    found, asked = gold_of(task, {("The dog", " barked."): 4})
    assert found == GoldBits(bits_per_byte=pytest.approx(0.5), stderr=None, items=1)
    assert asked == [("The dog", " barked.")]


def test_white_space_that_the_harness_moves_to_the_answer_counts():
    docs = [{"prompt": "def f():\n", "solution": "    return 1\n"}]
    kind = GENERATES | {"doc_to_text": "prompt", "doc_to_target": "solution", "target_delimiter": ""}
    found, _ = gold_of(built(docs, **kind), {("def f():\n", "    return 1\n"): 28})
    assert found.bits_per_byte == pytest.approx(2), "13 bytes of the answer, and the end of the prompt's line"


def test_of_several_answers_the_first_counts_and_items_without_any_do_not():
    docs = [{"q": "a", "answers": ["red", "blue"]}, {"q": "b", "answers": []}]
    task = built(docs, doc_to_target="answers", **GENERATES)
    found, _ = gold_of(task, {("Q: a\nA:", " red"): 8})
    assert (found.bits_per_byte, found.items) == (pytest.approx(2), 1)
    assert gold_bits_per_byte(BitsOf({}), {"t": built(docs[1:] * 2, doc_to_target="answers", **GENERATES)}) == {}


def test_a_task_may_say_how_its_right_answer_is_written():
    gold = {"gold": " The answer is {{number}}."}
    task = built(
        [{"q": "a", "number": "1,200"}], doc_to_target="{{number|replace(',', '')}}", metadata=gold, **GENERATES
    )
    found, asked = gold_of(task, {("Q: a\nA:", " The answer is 1,200."): 42})
    assert (found.bits_per_byte, len(asked)) == (pytest.approx(2), 1)


def test_a_likelihood_that_is_not_finite_is_left_out():
    task = built([{"q": "a", "answer": "yes"}, {"q": "b", "answer": "no"}], doc_to_target="answer", **GENERATES)
    found, _ = gold_of(task, {("Q: a\nA:", " yes"): math.inf, ("Q: b\nA:", " no"): 6})
    assert (found.bits_per_byte, found.items) == (pytest.approx(2), 1)


def test_a_text_scored_whole_has_no_right_answer():
    docs = [{"text": "It was."}]
    task = built(docs, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text")
    assert gold_requests(task) == []
