"""Every path of attention against the formula, and where each is taken."""

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nemotron4_model.kernels import attention
from nemotron4_model.kernels.attention import PackedDocuments, attend


def definition(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, sees: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(H)) v in fp64, over the keys that each query sees."""
    group = q_BNTH.shape[1] // k_BKSH.shape[1]
    k_BNSH, v_BNSH = (x.double().repeat_interleave(group, dim=1) for x in (k_BKSH, v_BKSH))
    scores_BNTS = q_BNTH.double() @ k_BNSH.transpose(2, 3) / q_BNTH.shape[3] ** 0.5
    return scores_BNTS.masked_fill(~sees, -torch.inf).softmax(-1) @ v_BNSH


def random_qkv(T: int, S: int, *, B: int = 2, K: int = 2, G: int = 3, H: int = 8, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, K * G, T, H), (B, K, S, H), (B, K, S, H)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(
    ("T", "S", "start", "is_blocked"),
    [
        pytest.param(1, 1, 0, False, id="the first token"),
        pytest.param(70, 70, 0, True, id="a short sequence"),
        pytest.param(71, 71, 0, False, id="a long sequence"),
        pytest.param(1, 9, 8, False, id="one token after others"),
        pytest.param(4, 9, 5, False, id="several tokens after others"),
        pytest.param(1, 16, 8, False, id="one token in a cache of fixed size"),
        pytest.param(4, 16, 0, False, id="the first tokens in a cache of fixed size"),
    ],
)
@pytest.mark.parametrize("gradients", [True, False])
def test_every_path_is_the_formula(
    T: int, S: int, start: int, is_blocked: bool, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_BLOCKED_TOKENS", 70)
    qkv = random_qkv(T, S)
    sees_TS = torch.arange(S) <= torch.arange(start, start + T)[:, None]
    expected = definition(*qkv, sees_TS)
    with torch.set_grad_enabled(gradients):
        found = attend(*qkv, start)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    if not gradients:
        return
    assert found.grad_fn is not None
    assert (found.grad_fn.name() == "_BlockedCausalAttentionBackward") == is_blocked
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    theirs = torch.autograd.grad(expected, qkv, direction.double())
    for gradient, exact in zip(torch.autograd.grad(found, qkv, direction), theirs, strict=True):
        torch.testing.assert_close(gradient, exact, atol=1e-5, rtol=1e-5)


def test_a_mask_takes_the_place_of_the_causal_rule() -> None:
    qkv = random_qkv(5, 5)
    mask_B1TS = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    mask_B1TS |= torch.eye(5, dtype=torch.bool)
    expected = definition(*qkv, mask_B1TS)
    torch.testing.assert_close(attend(*qkv, 0, PackedDocuments(mask_B1TS)).double(), expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.integers(2, 70),
    head_dim=st.sampled_from([4, 8]),
    block_tokens=st.sampled_from([1, 5, 64]),
)
def test_blocks_of_any_size_are_the_formula(
    batch: int, num_kv_heads: int, group: int, length: int, head_dim: int, block_tokens: int
) -> None:
    qkv = random_qkv(length, length, B=batch, K=num_kv_heads, G=group, H=head_dim, seed=length)
    expected = definition(*qkv, torch.ones(length, length, dtype=torch.bool).tril())
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(length))
    with mock.patch.object(attention, "_block_tokens", return_value=block_tokens):
        found = attend(*qkv, 0)
        gradients = torch.autograd.grad(found, qkv, direction)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for gradient, theirs in zip(gradients, torch.autograd.grad(expected, qkv, direction.double()), strict=True):
        torch.testing.assert_close(gradient, theirs, atol=1e-5, rtol=1e-5)


def test_blocks_in_bf16_are_as_exact_as_the_fused_kernel() -> None:
    scales = 6, 6, 1
    exact = [x.detach() * scale for x, scale in zip(random_qkv(200, 200, H=32), scales, strict=True)]
    direction = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1))

    def run(attention: Any, dtype: torch.dtype) -> list[Tensor]:
        qkv = [tensor.to(dtype).requires_grad_() for tensor in exact]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = attention(*qkv)
        return [y.detach().float(), *(g.float() for g in torch.autograd.grad(y, qkv, direction.to(dtype)))]

    fused = partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    exact = [tensor.bfloat16().float() for tensor in exact]
    reference = run(fused, torch.float32)
    blocked = run(lambda *qkv: attend(*qkv, 0), torch.bfloat16)
    for ours, theirs, true in zip(blocked, run(fused, torch.bfloat16), reference, strict=True):
        assert (ours - true).norm() < 1.5 * (theirs - true).norm()


def test_it_compiles_where_a_length_is_a_symbol() -> None:
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    for length in (5, 7):
        q, k, v = torch.randn(3, 1, 2, length, 8)
        for tensor in (q, k, v):
            torch._dynamo.mark_dynamic(tensor, 2)
        torch.testing.assert_close(compiled(q, k, v, 0), attend(q, k, v, 0))
