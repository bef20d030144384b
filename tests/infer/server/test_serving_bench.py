"""tools/bench/serving.py at toy size: its clients get every token, and its model directory can be served."""

import importlib
import statistics
from pathlib import Path

import pytest

from nemotron4_infer.engine.build import build_engine
from nemotron4_infer.engine.request import Request
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.sampling.config import SamplingConfig
from nemotron4_model import ModelConfig, Transformer, initialise

pytest.importorskip("transformers")


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools" / "bench")
    return importlib.import_module("serving")


def test_clients_get_every_token(server, serving):
    before = server.metrics()["generation_tokens_total"]
    rounds = [serving.load(server.address, serving.prompts_of(3, 2, 9, seed), 5) for seed in range(2)]
    assert server.metrics()["generation_tokens_total"] - before == 2 * 3 * 2 * 5
    found = serving.summary(rounds, [10.0, 10.0])
    assert 0 <= found["between_tokens_ms_p50"] <= found["between_tokens_ms_p99"]
    assert 0 < found["first_token_ms_p50"] <= found["first_token_ms_p99"]
    assert found["ratio"] == round(statistics.median(each["tokens_per_second"] for each in rounds) / 10, 2)


def test_its_model_directory_can_be_served(serving, tmp_path):
    config = ModelConfig(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_sequence_length=128,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0, config)
    engine = build_engine(str(serving.export(model, tmp_path)), None, EngineConfig())
    (((prompt,),),) = (serving.prompts_of(1, 1, 100, 0),)
    assert max(prompt) < engine.tokenizer.vocab_size == serving.NUM_PIECES
    engine.add(Request(prompt_ids=tuple(prompt), sampling=SamplingConfig(max_new_tokens=3, ignore_eos=True)))
    deltas = []
    while engine.has_work:
        deltas += engine.step()
    assert sum(len(delta.tokens) for delta in deltas) == 3
