"""torch's operator of attention over sequences of various lengths, which has kernels for GPUs only, on a CPU.

`register` gives it kernels that follow its documented contract, a sequence at a time, from the definition; `paged` is a
`varlen_attn` with block tables, which torch 2.11 does not have.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

calls: list[int] = []
"""The number of sequences of each forward call."""


@cache
def register() -> None:
    """Once a process: torch keeps the kernels."""
    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)


def weights(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights (heads, tokens, tokens) of one sequence, causal, and their log-sum-exp (heads, tokens)."""
    scores = torch.einsum("qnh,knh->nqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(torch.ones(len(q), len(q), dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1), scores.float().logsumexp(-1)


def forward(
    q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor, max_q: int, max_k: int, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The signature of both torch 2.11 and 2.13: the later options are (is_causal, scale, window_size, ...)."""
    if any(isinstance(option, Tensor) for option in options):
        raise NotImplementedError("keys in pages")
    is_causal, scale, window = options[:3]
    assert (is_causal, scale, list(window)) == (True, None, [-1, 0])
    assert torch.equal(bounds_q, bounds_k)
    assert max_q == max_k >= int(bounds_q.diff().max())
    calls.append(len(bounds_q) - 1)
    assert bounds_q.dtype == torch.int32
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    output, sums = torch.empty_like(q), torch.empty(q.shape[1], len(q))
    for part in map(slice, bounds_q[:-1].tolist(), bounds_q[1:].tolist()):
        weights_NQK, sums[:, part] = weights(q[part], k[part])
        output[part] = torch.einsum("nqk,knh->qnh", weights_NQK, v[part])
    return output, sums, torch.zeros(2, dtype=torch.uint64)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, bounds: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, written out: autograd is off inside of an operator."""
    heads, group, scale = k.shape[1], q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for part in map(slice, bounds[:-1].tolist(), bounds[1:].tolist()):
        weights_NQK, _ = weights(q[part], k[part])
        grad_v[part] = torch.einsum("nqk,qnh->knh", weights_NQK, grad[part])
        grad_NQK = torch.einsum("qnh,knh->nqk", grad[part], v[part])
        grad_NQK = weights_NQK * (grad_NQK - (grad_NQK * weights_NQK).sum(-1, keepdim=True)) * scale
        grad_q[part] = torch.einsum("nqk,knh->qnh", grad_NQK, k[part])
        grad_k[part] = torch.einsum("nqk,qnh->knh", grad_NQK, q[part])
    return grad_q, grad_k.unflatten(1, (heads, group)).sum(2), grad_v.unflatten(1, (heads, group)).sum(2)


def paged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """`varlen_attn` of torch 2.13 for keys and values in pages, with the checks of its kernel for GPUs."""
    assert seqused_k is not None
    assert block_table is not None
    assert cu_seq_k is not None
    assert {x.dtype for x in (cu_seq_q, cu_seq_k, seqused_k, block_table)} == {torch.int32}
    assert block_table.stride(-1) == query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert seqused_k.is_contiguous()
    assert cu_seq_q.is_contiguous()
    assert len(cu_seq_q) == len(cu_seq_k) == len(seqused_k) + 1 == len(block_table) + 1
    assert (cu_seq_q[0], cu_seq_q[-1]) == (0, len(query))
    assert cu_seq_q.diff().max() <= max_q
    assert seqused_k.max() <= max_k <= block_table.shape[1] * key.shape[1]
    assert enable_gqa
    assert window_size in ((-1, -1), (-1, 0))
    output = torch.empty_like(query)
    parts = map(slice, cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist())
    for part, pages, length in zip(parts, block_table.long(), seqused_k.tolist(), strict=True):
        q = query[part].transpose(0, 1)
        k, v = (pool[pages].flatten(0, 1)[:length].transpose(0, 1) for pool in (key, value))
        sees = torch.ones(q.shape[1], length, dtype=torch.bool)
        if window_size == (-1, 0):
            sees = sees.tril(length - q.shape[1])  # aligned to the last key
        output[part] = F.scaled_dot_product_attention(q, k, v, sees, enable_gqa=True).transpose(0, 1)
    return output
