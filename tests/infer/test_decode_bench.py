"""tools/bench/decode.py at toy size: its contestants do the same work, and it compares them."""

import importlib
from pathlib import Path

import pytest
import torch

from nemotron4_model import ModelConfig

pytest.importorskip("transformers")
BENCH = Path(__file__).parents[2] / "tools" / "bench"


def test_contestants_are_compared_at_the_same_work(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    decode = importlib.import_module("decode")
    config = ModelConfig.preset("ladder_70k")
    turns = {name: decode.contestant(name, config) for name in decode.CONTESTANTS}
    for work in ((2, 5, 3), (1, 70, 1)):
        found = decode.measure(turns, work, rounds=2)
        assert found.pop("fp32_tokens_are_equal")
        assert found.keys() == set(decode.CONTESTANTS)
        assert found[decode.BASE]["ratio"] == 1
        assert all(each["tokens_per_second"] > 0 for each in found.values())
        for name, take_turn in turns.items():
            assert torch.tensor(take_turn(*work)["tokens"]).shape == (work[0], work[2]), name
