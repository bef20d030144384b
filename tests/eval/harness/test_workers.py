"""A model directory in this process, in several, and quantised: the same results."""

import pytest
from lm_eval.api.instance import Instance
from served import tiny_chat_model

from nemotron4_eval.harness.model import EngineLM
from nemotron4_infer import load_model_directory
from nemotron4_infer.engine_config import Quantisation

PAIRS = [(f"there of {number}", option) for number in range(30) for option in (" theme", " day day", " return")]
ASKED = [Instance("generate_until", {}, (context, {"max_gen_toks": 8}), 0) for context, _ in PAIRS[::9]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("evaluated"), hidden_size=64, num_layers=1)


def results(lm):
    scores = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in PAIRS])
    return (
        scores,
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("there of " * 90,), 0)]),
        lm.generate_until(ASKED),
    )


@pytest.mark.slow
def test_several_processes_give_the_results_of_one(model_dir, tmp_path):
    lm = EngineLM.from_directory(str(model_dir), processes=2, cache=tmp_path / "results")
    lm._batch_tokens = 64  # a few batches for each
    scores, rolling, texts = results(lm)
    lm._workers._executor.close()
    one = EngineLM(load_model_directory(str(model_dir), None))
    expected, expected_rolling, expected_texts = results(one)
    assert texts == expected_texts
    assert rolling == pytest.approx(expected_rolling, abs=1e-4)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    assert [nats for nats, _ in scores] == pytest.approx([nats for nats, _ in expected], abs=1e-4)
    # What they computed is found by one process.
    again = EngineLM.from_directory(str(model_dir), cache=tmp_path / "results")
    again._workers = None
    assert results(again) == (scores, rolling, texts)


def test_quantised_weights_score_and_generate(model_dir, tmp_path):
    quantised = EngineLM.from_directory(str(model_dir), quantization=Quantisation.int8, cache=tmp_path / "results")
    plain = EngineLM.from_directory(str(model_dir), cache=tmp_path / "results")
    near, exact = results(quantised), results(plain)
    assert near != exact
    assert [nats for nats, _ in near[0]] == pytest.approx([nats for nats, _ in exact[0]], rel=0.05)
    assert all(near[2])


def test_a_model_that_is_not_there_is_named_before_processes_start():
    with pytest.raises(ValueError, match=r"^model_dir \(nowhere\): is not a directory"):
        EngineLM.from_directory("nowhere", processes=2)
    with pytest.raises(ValueError, match=r"^processes \(0\): must be at least 1$"):
        EngineLM.from_directory("nowhere", processes=0)
