"""A cached forward pass computes what a full one does, however the sequence is cut."""

import re

import pytest
import torch

from nemotron4_infer import KVCache
from nemotron4_model import ModelConfig, Transformer, initialise

CONFIG = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    init_std=0.2,
    max_sequence_length=24,
)


@pytest.fixture(scope="module")
def model():
    model = Transformer(CONFIG)
    initialise(model, 1, CONFIG)
    return model.eval()


@pytest.mark.parametrize("chunks", [[24], [1] * 24, [7, 1, 1, 5, 10], [23, 1], [2, 22]])
@torch.no_grad()
def test_cached_logits_equal_uncached_logits(model, chunks):
    tokens_BT = torch.randint(97, (2, 24), generator=torch.Generator().manual_seed(0))
    expected_BTV = model(tokens_BT)
    cache = KVCache(CONFIG, batch_size=2)
    parts = [
        model(part_BT, position_BT=cache.positions(part_BT.shape[1]), cache=cache)
        for part_BT in tokens_BT.split(chunks, dim=1)
    ]
    assert cache.length == 24
    torch.testing.assert_close(torch.cat(parts, dim=1), expected_BTV, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cache_of_other_tokens_changes_the_logits(model):
    """Guards the test above: the logits do depend on what is cached."""
    last_BT = torch.tensor([[5]])
    outputs = []
    for first in (1, 2):
        cache = KVCache(CONFIG)
        model(torch.tensor([[first, first]]), position_BT=cache.positions(2), cache=cache)
        outputs.append(model(last_BT, position_BT=cache.positions(1), cache=cache))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_length_moves_once_a_forward_pass_and_not_before_the_last_layer():
    cache = KVCache(CONFIG, capacity=8)
    new_BKTH = torch.zeros(1, 2, 3, 8)
    for layer in range(3):
        assert cache.length == 0
        k_BKSH, v_BKSH = cache.update(layer, new_BKTH, new_BKTH)
        assert k_BKSH.shape == v_BKSH.shape == (1, 2, 3, 8)
    assert cache.length == 3


def test_buffers_are_allocated_once_in_the_dtype_asked_for():
    cache = KVCache(CONFIG, capacity=8, dtype=torch.bfloat16)
    before = cache.k_LBKCH.data_ptr()
    k_BKSH, _ = cache.update(0, torch.ones(1, 2, 5, 8), torch.ones(1, 2, 5, 8))
    assert k_BKSH.dtype is torch.bfloat16
    assert k_BKSH.data_ptr() == before
    assert cache.k_LBKCH.shape == (3, 1, 2, 8, 8)


def test_overflow_is_refused():
    cache = KVCache(CONFIG, capacity=4)
    message = "the key/value cache has room for 4 tokens, but 5 are needed; "
    message += "shorten the prompt or lower sampling.max_new_tokens"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cache.update(0, torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cache.positions(5)
