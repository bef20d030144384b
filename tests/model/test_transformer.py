"""Each part against a reference written naively from its definition."""

import ast
import hashlib
import inspect
import math
import re
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nemotron4_model import ModelConfig, Transformer, initialise, linear_cross_entropy, rotary, transformer
from nemotron4_model.kernels.attention import PackedDocuments, attend
from nemotron4_model.transformer import ZeroCentredLayerNorm

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    init_std=0.2,
    max_sequence_length=20,
)


class ListCache:
    """The simplest cache: concatenate. `seen`, if set, says which keys the new tokens may see."""

    seen: Tensor | None = None

    def __init__(self, num_layers: int) -> None:
        self.length = 0
        self.layers: list[Any] = [None] * num_layers

    def attend(self, layer: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        start = self.length
        if self.layers[layer] is not None:
            old_k, old_v = self.layers[layer]
            k_BKTH, v_BKTH = torch.cat([old_k, k_BKTH], 2), torch.cat([old_v, v_BKTH], 2)
        self.layers[layer] = (k_BKTH, v_BKTH)
        if layer == len(self.layers) - 1:
            self.length = k_BKTH.shape[2]
        mask = None if self.seen is None else PackedDocuments(self.seen)
        return attend(q_BNTH, k_BKTH, v_BKTH, start, mask)


class FixedCache:
    """A cache of fixed size, whose unwritten rows hold rubbish."""

    def __init__(self, num_layers: int, size: int) -> None:
        self.length = 0
        shape = (num_layers, 1, CONFIG.num_key_value_heads, size, CONFIG.attention_head_dim)
        self.k, self.v = torch.full(shape, 1e4), torch.full(shape, 1e4)

    def attend(self, layer: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        start, end = self.length, self.length + k_BKTH.shape[2]
        self.k[layer, :, :, self.length : end], self.v[layer, :, :, self.length : end] = k_BKTH, v_BKTH
        if layer == len(self.k) - 1:
            self.length = end
        return attend(q_BNTH, self.k[layer], self.v[layer], start)


@pytest.fixture
def model() -> Transformer:
    model = Transformer(CONFIG)
    initialise(model, 0, CONFIG)
    return model


def tokens(length: int, batch: int = 1) -> Tensor:
    return torch.randint(CONFIG.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def naive_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + CONFIG.norm_eps).sqrt() * (1 + weight) + bias


def naive_rotate(head: Tensor, position: int) -> Tensor:
    """One head vector: the pairs (i, i + R) as complex numbers, turned."""
    R = CONFIG.rotary_dim // 2
    angles = torch.tensor([position / CONFIG.rope_theta ** (2 * i / CONFIG.rotary_dim) for i in range(R)])
    turned = torch.complex(head[:R], head[R : 2 * R]) * torch.polar(torch.ones(R), angles)
    return torch.cat([turned.real, turned.imag, head[2 * R :]])


def naive_logits(model: Transformer, sequence: Tensor) -> Tensor:
    """Logits of one sequence, one position and one head at a time, in loops."""
    K, H = CONFIG.num_key_value_heads, CONFIG.attention_head_dim
    G = CONFIG.num_attention_heads // K
    x = model.embedding.weight[sequence]
    for block in model.blocks:
        rows = naive_norm(x, block.attention_norm.weight, block.attention_norm.bias) @ block.attention.qkv.weight.T
        heads = rows.view(len(sequence), K, G + 2, H)
        out = torch.zeros(len(sequence), K * G, H)
        for t in range(len(sequence)):
            for n in range(K * G):
                q = naive_rotate(heads[t, n // G, n % G], t)
                keys = torch.stack([naive_rotate(heads[s, n // G, G], s) for s in range(t + 1)])
                out[t, n] = torch.softmax(keys @ q / math.sqrt(H), 0) @ heads[: t + 1, n // G, G + 1]
        x = x + out.flatten(1) @ block.attention.out.weight.T
        up = naive_norm(x, block.mlp_norm.weight, block.mlp_norm.bias) @ block.mlp.up.weight.T
        x = x + up.clamp(min=0).square() @ block.mlp.down.weight.T
    return naive_norm(x, model.norm.weight, model.norm.bias) @ model.head.weight.T


def test_the_model_is_its_definition(model: Transformer) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
        sequence = tokens(9)
        torch.testing.assert_close(model(sequence)[0], naive_logits(model, sequence[0]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("module", [transformer, rotary])
def test_no_condition_of_the_model_file_asks_for_device_dtype_size_or_compiler(module: ModuleType) -> None:
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    conditions = [ast.unparse(node.test) for node in nodes if isinstance(node, ast.If | ast.IfExp | ast.While)]
    asked = r"device|dtype|shape|size\(|numel|len\(|compil|requires_grad|is_\w*enabled|is_cuda|cuda|cpu"
    assert conditions
    assert not [condition for condition in conditions if re.search(asked, condition)]


def test_norm_keeps_dtype_and_has_fp32_statistics() -> None:
    norm = ZeroCentredLayerNorm(CONFIG)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0)) * 10 + 1_000
    low = x.bfloat16()
    expected = naive_norm(low.float(), norm.weight, norm.bias)
    assert norm(low).dtype == torch.bfloat16
    torch.testing.assert_close(norm(low).float(), expected, atol=2e-2, rtol=2e-2)


def test_rotary_tables_stay_fp32_and_are_not_saved(model: Transformer) -> None:
    before = model.rotary.cos.clone()
    for move in (model.bfloat16, partial(model.to, "meta"), partial(model.to_empty, device="cpu")):
        move()
        assert model.rotary.cos.dtype == torch.float32
    assert torch.equal(model.rotary.cos, before)
    assert not any("rotary" in name for name in model.state_dict())


@pytest.mark.parametrize("parts", [[9], [5, 1, 1, 1, 1], [4, 5], [1] * 9, [3, 1, 5]], ids=str)
@pytest.mark.parametrize("fixed", [False, True])
def test_any_cached_continuation_equals_one_pass(model: Transformer, parts: list[int], fixed: bool) -> None:
    sequence = tokens(9)
    cache = FixedCache(CONFIG.num_layers, 16) if fixed else ListCache(CONFIG.num_layers)
    positions = torch.arange(9)[None].split(parts, dim=1)
    with torch.no_grad():
        whole = model(sequence)
        pieces = [
            model(part, position_BT=position_BT, cache=cache)
            for part, position_BT in zip(sequence.split(parts, dim=1), positions, strict=True)
        ]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(sequence, last_only=True), whole[:, -1:])


def test_options_behind_a_shared_prefix_are_as_if_each_followed_it_alone(model: Transformer) -> None:
    """Two options in one row: positions are given, and the cache hides each from the other."""
    prefix, first, second = tokens(12).split([5, 3, 4], dim=1)
    cache = ListCache(CONFIG.num_layers)
    option_T = torch.tensor([0] * 3 + [1] * 4)
    with torch.no_grad():
        model(prefix, position_BT=torch.arange(5)[None], cache=cache)
        own_TT = (option_T[:, None] == option_T) & torch.ones(7, 7, dtype=torch.bool).tril()
        cache.seen = torch.cat([torch.ones(7, 5, dtype=torch.bool), own_TT], dim=1)
        position_BT = torch.tensor([[5, 6, 7, 5, 6, 7, 8]])
        found = model(torch.cat([first, second], dim=1), position_BT=position_BT, cache=cache)
        for option, logits in zip((first, second), found.split([3, 4], dim=1), strict=True):
            alone = model(torch.cat([prefix, option], dim=1))[:, 5:]
            torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_packed_documents_are_as_if_alone(model: Transformer) -> None:
    end = 7
    lengths = ((3, 1, 5), (9,), (1, 1, 7), (4, 5))  # the last document of the last row does not end
    rows = [[tokens(length)[0].masked_fill(tokens(length)[0] == end, end + 1) for length in row] for row in lengths]
    for row in rows:
        for document in row:
            document[-1] = end
    rows[-1][-1][-1] = end + 1
    packed_BT = torch.stack([torch.cat(row) for row in rows])
    found_BTV = model(packed_BT, end_of_document=end)
    alone_BTV = torch.stack([torch.cat([naive_logits(model, document) for document in row]) for row in rows])
    torch.testing.assert_close(found_BTV, alone_BTV, atol=1e-5, rtol=1e-5)
    assert (model(packed_BT)[0, 3:] - found_BTV[0, 3:]).abs().max() > 1e-2  # without the mask they do see each other
    weight = model.blocks[0].attention.qkv.weight
    (gradient,) = torch.autograd.grad(model(packed_BT, end_of_document=end)[0, 4:].square().sum(), weight)
    other_BT = packed_BT.clone()
    other_BT[0, 0] = end + 2  # another first document changes nothing in the later ones
    (same,) = torch.autograd.grad(model(other_BT, end_of_document=end)[0, 4:].square().sum(), weight)
    torch.testing.assert_close(gradient, same, atol=1e-6, rtol=1e-5)


def test_too_long_a_sequence_is_refused(model: Transformer) -> None:
    with pytest.raises(ValueError) as refusal:
        model(tokens(21))
    assert str(refusal.value) == (
        "model.max_sequence_length (20): this sequence has 21 tokens; shorten it or use a model with more positions"
    )


@pytest.mark.parametrize("chunk_tokens", [None, 1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradients_equal_plain_cross_entropy(chunk_tokens: int | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 24, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 24, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(50, (2, 16), generator=generator)
    logits = (x @ weight.T).float().flatten(0, 1)
    nll = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="none")
    plain = (nll.view(2, 16), nll.mean(), *torch.autograd.grad(3 * nll.mean(), (x, weight)))
    loss = linear_cross_entropy(x, weight, targets, chunk_tokens=chunk_tokens)
    ours = (loss.nll_BT, loss.mean, *torch.autograd.grad(3 * loss.mean, (x, weight)))
    assert ours[0].dtype == ours[1].dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=10 * tolerance)


def test_loss_needs_no_gradients_is_exact_for_large_logits_and_gives_its_gradients_once() -> None:
    x, weight = torch.tensor([[300.0, -300.0]]), torch.eye(2).requires_grad_()
    with torch.no_grad():
        assert float(linear_cross_entropy(x, weight, torch.tensor([1])).mean) == 600.0
    loss = linear_cross_entropy(x, weight, torch.tensor([1]))
    assert not loss.nll_BT.requires_grad
    loss.mean.backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, torch.tensor([[300.0, -300.0], [-300.0, 300.0]]))
    with pytest.raises(AssertionError, match="were taken already"):
        loss.mean.backward()


def test_autocast_loss_is_close_to_fp32(model: Transformer) -> None:
    sequence = tokens(12)
    exact = model(sequence[:, :-1], sequence[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        low = model(sequence[:, :-1], sequence[:, 1:])
    assert low.mean.dtype == torch.float32
    torch.testing.assert_close(low.nll_BT, exact.nll_BT, atol=0.1, rtol=0.05)
    low.mean.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_initial_weights_are_those_of_their_seed_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one block as ever, so that the same job starts from the same weights; a second block has its own seed."""
    digest = hashlib.sha256(b"0:blocks.1.attention.qkv.weight").digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    model = Transformer(CONFIG)
    qkv = model.blocks[1].attention.qkv.weight.detach()
    expected = torch.empty(qkv.shape).normal_(0.0, CONFIG.init_std, generator=generator)
    initialise(model, 0, CONFIG)
    assert torch.equal(qkv, expected)
    rows = len(qkv) // 3
    monkeypatch.setattr("nemotron4_model.initialisation.BLOCK_NUMBERS", rows * CONFIG.hidden_size)
    initialise(model, 0, CONFIG)
    torch.testing.assert_close(qkv[:rows], expected[:rows])
    assert len({float(part.sum()) for part in qkv.split(rows)}) == len(qkv.split(rows)), "no two blocks are alike"
    assert float(qkv.std()) == pytest.approx(CONFIG.init_std, rel=0.2)


def test_initial_weights_follow_the_recipe() -> None:
    config = ModelConfig.preset("nano_10m")
    model = Transformer(config)
    initialise(model, 5, config)
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in first.items():
        if "norm" in name:
            assert not parameter.any()
            continue
        std = 0.02 / 4 if name.endswith(("out.weight", "down.weight")) else 0.02  # 4 = sqrt(2 * 8 layers)
        assert float(parameter.std()) == pytest.approx(std, rel=0.02), name
    initialise(model, 6, config)
    assert not torch.equal(model.embedding.weight, first["embedding.weight"])
    assert not torch.equal(first["blocks.0.mlp.up.weight"], first["blocks.1.mlp.up.weight"])
