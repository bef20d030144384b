"""Causal grouped-query attention: y = softmax(q k^T / sqrt(H) + mask) v.

Paths:
- several tokens of whole causal sequences (from position 0, no mask), with gradients, on a CPU, at most
  MAX_BLOCKED_TOKENS of them: `_BlockedCausalAttention`, a few large matrix products;
- other whole causal sequences: `F.scaled_dot_product_attention` with `is_causal`, so that torch can choose a fused
  kernel, which never holds the scores;
- one token, tokens that continue a cache, or a mask given by the caller: the same function with a mask, or without one
  where a single token sees every key.

torch's fused kernel for CPUs works on small tiles of single heads and is slowest in backward. The blocked path stacks
all query heads of a key/value head, and each block of queries meets only the keys up to its end, so that most of the
work above the diagonal, half of the square, is never done. The price is memory: backward keeps the attention weights,
T x T / 2 for each query head. Its scores, softmax and their gradients are fp32 whatever the dtype, under autocast too.

Invariant: every path equals the formula up to rounding.

Shapes: B batch, T new tokens, S all tokens so far, N query heads, K key/value heads, G query heads per key/value head,
H head width. In the blocked path: P pairs of batch and key/value head, Q queries of a group in the order of
(position, head), S keys up to the end of a block.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_BLOCKED_TOKENS = 1_024
"""Longer sequences go to the fused kernel, which keeps no attention weights."""


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, start: int, mask: Tensor | None = None) -> Tensor:
    """y_BNTH: queries at positions start.. attend to keys at positions 0.., each to its own position and those before.

    `mask` (mask_B1TS, True where a query may see a key) replaces that rule.
    """
    T, S = q_BNTH.shape[2], k_BKSH.shape[2]
    if mask is None and (start + T < S or (T > 1 and start > 0)):
        mask = torch.ones(T, S, dtype=torch.bool, device=q_BNTH.device).tril(start)
    grouped = q_BNTH.shape[1] != k_BKSH.shape[1]
    if mask is None and T > 1:  # not `is_causal=T > 1`: where sizes are symbols, it must still be a bool
        if q_BNTH.device.type == "cpu" and q_BNTH.requires_grad and T <= MAX_BLOCKED_TOKENS:
            return _blocked_causal_attention(q_BNTH, k_BKSH, v_BKSH)
        return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, is_causal=True, enable_gqa=grouped)
    return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, mask, enable_gqa=grouped)


def _blocked_causal_attention(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):  # it would undo the casts to fp32
        y_BNTH: Tensor = _BlockedCausalAttention.apply(q_BNTH, k_BKTH, v_BKTH)  # type: ignore[no-untyped-call]  # torch's
    return y_BNTH


class _BlockedCausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        B, N, T, H = q_BNTH.shape
        K, dtype = k_BKTH.shape[1], q_BNTH.dtype
        q_PQH, k_PTH, v_PTH = _stacked(q_BNTH, K), _stacked(k_BKTH, K), _stacked(v_BKTH, K)
        q_fp32_PQH, scaled_PTH = q_PQH.float(), k_PTH.float() * H**-0.5
        above_diagonal, kept, y = _above_diagonal(N // K, dtype), [], []
        for queries, first, end in _blocks(T, N // K, dtype):
            scores_PQS = torch.bmm(q_fp32_PQH[:, queries], scaled_PTH[:, :end].transpose(1, 2))
            scores_PQS[..., first:] += above_diagonal[: scores_PQS.shape[1], : end - first]
            weights_PQS = torch.softmax(scores_PQS, dim=-1, out=scores_PQS).to(dtype)
            y.append(torch.bmm(weights_PQS, v_PTH[:, :end]))
            kept.append(weights_PQS)
        ctx.save_for_backward(q_PQH, k_PTH, v_PTH, *kept)
        ctx.batch = B
        return _unstacked(torch.cat(y, dim=1), B, T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):  # backward may be called under autocast too
            return _gradients(grad_outputs[0], ctx.batch, *ctx.saved_tensors)


def _gradients(
    grad_y_BNTH: Tensor, B: int, q_PQH: Tensor, k_PTH: Tensor, v_PTH: Tensor, *kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q_BNTH, k_BKTH and v_BKTH, from each block's kept weights_PQS."""
    (P, T, H), dtype = k_PTH.shape, q_PQH.dtype
    grad_y_PQH = _stacked(grad_y_BNTH, P // B)
    grad_q, grad_k_PTH, grad_v_PTH = [], torch.zeros_like(k_PTH), torch.zeros_like(v_PTH)
    grad_y_fp32_PQH, v_fp32_PTH = grad_y_PQH.float(), v_PTH.float()
    for (queries, _, end), weights_PQS in zip(_blocks(T, q_PQH.shape[1] // T, dtype), kept, strict=True):
        grad_v_PTH[:, :end] += torch.bmm(weights_PQS.transpose(1, 2), grad_y_PQH[:, queries])
        grad_PQS = torch.bmm(grad_y_fp32_PQH[:, queries], v_fp32_PTH[:, :end].transpose(1, 2))
        # In one pass: (gradient - its mean by these weights) x weights.
        grad_PQS = torch._softmax_backward_data(grad_PQS, weights_PQS.float(), -1, torch.float32).to(dtype)
        grad_q.append(torch.bmm(grad_PQS, k_PTH[:, :end]))
        grad_k_PTH[:, :end] += torch.bmm(grad_PQS.transpose(1, 2), q_PQH[:, queries])
    grad_q_PQH = torch.cat(grad_q, dim=1).mul_(H**-0.5)
    grad_k_PTH *= H**-0.5
    return _unstacked(grad_q_PQH, B, T), _unstacked(grad_k_PTH, B, T), _unstacked(grad_v_PTH, B, T)


def _block_tokens(dtype: torch.dtype) -> int:
    """Positions per block: small blocks skip more of what lies above the diagonal, large ones multiply faster."""
    return 32 if dtype == torch.float32 else 64


def _blocks(T: int, G: int, dtype: torch.dtype) -> Iterator[tuple[slice, int, int]]:
    """For each block: its queries, its first position, and the position after its last."""
    tokens = _block_tokens(dtype)
    for first in range(0, T, tokens):
        end = min(first + tokens, T)
        yield slice(first * G, end * G), first, end


def _above_diagonal(G: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a block's own positions, G rows for each: -inf for keys that come later."""
    tokens = _block_tokens(dtype)
    return torch.full((tokens, tokens), float("-inf")).triu(1).repeat_interleave(G, dim=0)


def _stacked(x_BNTH: Tensor, K: int) -> Tensor:
    """x_PQH, contiguous, so that the queries of a block of positions lie side by side."""
    B, N, T, H = x_BNTH.shape
    return x_BNTH.view(B, K, N // K, T, H).transpose(2, 3).reshape(B * K, T * (N // K), H)


def _unstacked(x_PQH: Tensor, B: int, T: int) -> Tensor:
    """x_BNTH, the inverse of `_stacked`: a view of x_BTNH, the layout that the output projection reads."""
    P, Q, H = x_PQH.shape
    return x_PQH.view(B, P // B, T, Q // T, H).transpose(1, 2).reshape(B, T, P // B * (Q // T), H).transpose(1, 2)
