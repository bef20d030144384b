"""tools/bench/decode.py at toy size: its contestants do the same work, and it compares them."""

import importlib
from pathlib import Path

import pytest
import torch

from nemotron4_model import DType, ModelConfig, Transformer

pytest.importorskip("transformers")
BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def decode(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("decode")


def test_contestants_are_compared_at_the_same_work(decode):
    config = ModelConfig.preset("ladder_70k")
    names, left_out = decode.names_of(decode.FORMATS)
    turns = {name: decode.contestant(name, config) for name in names}
    for work in ((2, 5, 3), (1, 70, 1)):
        found = decode.measure(turns, work, rounds=2)
        equal = found.pop("tokens_equal_to_ours_fp32")
        assert equal == {name: 1 for name in names if name.endswith("fp32") and name != "ours fp32"}
        assert found.keys() == set(names)
        assert all(each["tokens_per_second"] > 0 for each in found.values())
        assert list(found["ours bf16"]["to"])[:2] == ["transformers fp32", "transformers bf16"]
        assert ("llama.cpp bf16" in found["ours bf16"]["to"]) == ("llama.cpp" not in left_out)
        for name, take_turn in turns.items():
            assert torch.tensor(take_turn(*work)["tokens"]).shape == (work[0], work[2]), name


def test_the_share_of_the_bandwidth(decode):
    config = ModelConfig.preset("ladder_70k")
    linears = [each for each in Transformer(config).parameters() if each.ndim == 2][1:]  # all but the embedding
    size = decode.bytes_of_a_token(config, "bf16")
    norms = 4 * 2 * config.hidden_size * (2 * config.num_layers + 1)
    assert size == sum(each.numel() for each in linears) * DType.bf16.num_bytes + norms
    turn = {"ours bf16": {"speed": 100}, "transformers fp32": {"speed": 50}, "reading": {"speed": 400 * size}}
    found = decode.shares([turn], config)
    assert found["ours bf16"] == {"bytes_a_token": size, "share": 0.25, "most_to_transformers fp32": 8}
    assert decode.reading(1 << 20)()["speed"] > 0
