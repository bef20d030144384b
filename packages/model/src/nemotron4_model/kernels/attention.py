"""Causal grouped-query attention: y = softmax(q k^T / sqrt(H) + mask) v.

Paths:
- several tokens of whole causal sequences (from position 0, documents not apart), with gradients, on a CPU, at most
  MAX_BLOCKED_TOKENS of them: `_BlockedCausalAttention`, a few large matrix products;
- other whole causal sequences: `F.scaled_dot_product_attention` with `is_causal`, so that torch can choose a fused
  kernel, which never holds the scores;
- packed documents in bf16 or fp16 on CUDA: `varlen_attn`, causal inside each document; it skips all other pairs;
- one token, tokens that continue a cache, or other packed documents: `F.scaled_dot_product_attention` with a mask, or
  without one where a single token sees every key.

On CUDA, `F.scaled_dot_product_attention` may take cuDNN's kernel, the fastest on Hopper, only where gradients are on
and there is no mask. cuDNN builds a plan for each new shape, which takes far longer than a decoded token, and its
backward with a mask gives NaN at some lengths (pytorch #196678). torch itself leaves cuDNN out where deterministic
algorithms are asked for. The memory-efficient kernel, the only fused one with masks or fp32, knows no grouped heads:
keys and values are repeated for it, as otherwise all T x S scores would be held. None of this has run on a GPU.

torch's fused kernel for CPUs works on small tiles of single heads and is slowest in backward. The blocked path stacks
all query heads of a key/value head, and each block of queries meets only the keys up to its end, so that most of the
work above the diagonal, half of the square, is never done. The price is memory: backward keeps the attention weights,
T x T / 2 for each query head. Its scores, softmax and their gradients are fp32 whatever the dtype, under autocast too.

Invariant: every path equals the formula up to rounding.

Shapes: B batch, T new tokens, S all tokens so far, N query heads, K key/value heads, G query heads per key/value head,
H head width. In the blocked path: P pairs of batch and key/value head, Q queries of a group in the order of
(position, head), S keys up to the end of a block.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

MAX_BLOCKED_TOKENS = 1_024
"""Longer sequences go to the fused kernel, which keeps no attention weights."""


KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""On CUDA with gradients and without a mask: the first of these that takes the inputs."""

MIN_BOUNDS = 64
"""Fewest documents that `PackedDocuments.bounds_E` has room for; beyond, room doubles, so that compiled code sees few
shapes. A document without tokens costs next to nothing."""

_varlen: Any = None
"""torch's `varlen_attn` for grouped heads, once `pack` has needed it: importing it takes a second."""


class PackedDocuments(NamedTuple):
    """Rows that pack several documents, each of which attends only to itself: what the path of `attend` needs."""

    mask_B1TT: Tensor | None = None  # noqa: N815 (shapes in names)
    """True where a query may see a key: its own document up to itself. None for `varlen_attn`."""
    bounds_E: Tensor | None = None  # noqa: N815 (shapes in names)
    """For `varlen_attn`: where each document starts in B x T tokens, then B x T up to the end, in int32."""


def pack(document_BT: Tensor, x_BTD: Tensor) -> PackedDocuments:
    """Documents by the number of each token's, which grows along a row, for attention over x_BTD.

    For `varlen_attn` this waits once for the device, to know how many documents there are.
    """
    device = x_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BTD.dtype
    if _takes_varlen(device, dtype):
        _load_varlen()
        return PackedDocuments(bounds_E=_bounds(document_BT))
    index_T = torch.arange(document_BT.shape[1], device=document_BT.device)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return PackedDocuments(mask_B1TT=(same_BTT & (index_T[:, None] >= index_T)).unsqueeze(1))


def attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, start: int, documents: PackedDocuments | None = None
) -> Tensor:
    """y_BNTH: queries at positions start.. attend to keys at positions 0.., each to its own position and those before.

    With `documents`, start is 0 and S is T, and each attends only to its own document.
    """
    if documents is not None and documents.bounds_E is not None:
        return _attend_apart(q_BNTH, k_BKSH, v_BKSH, documents.bounds_E)
    T, S = q_BNTH.shape[2], k_BKSH.shape[2]
    mask = None if documents is None else documents.mask_B1TT
    if mask is None and (start + T < S or (T > 1 and start > 0)):
        mask = torch.ones(T, S, dtype=torch.bool, device=q_BNTH.device).tril(start)
    if mask is None and T > 1:  # not `is_causal=T > 1`: where sizes are symbols, it must still be a bool
        if q_BNTH.device.type == "cpu" and q_BNTH.requires_grad and T <= MAX_BLOCKED_TOKENS:
            return _blocked_causal_attention(q_BNTH, k_BKSH, v_BKSH)
        return _fused(q_BNTH, k_BKSH, v_BKSH, is_causal=True)
    return _fused(q_BNTH, k_BKSH, v_BKSH, mask)


def _fused(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    """`F.scaled_dot_product_attention` with the kernels that suit the device."""
    N, K = q_BNTH.shape[1], k_BKSH.shape[1]
    if not _is_cuda(q_BNTH):
        return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, mask, is_causal=is_causal, enable_gqa=N != K)
    if N != K and (mask is not None or q_BNTH.dtype == torch.float32):
        k_BKSH, v_BKSH = (x_BKSH.repeat_interleave(N // K, dim=1) for x_BKSH in (k_BKSH, v_BKSH))
        K = N
    if mask is None and torch.is_grad_enabled():
        with sdpa_kernel(KERNELS, set_priority=True):
            return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, is_causal=is_causal, enable_gqa=N != K)
    with sdpa_kernel(KERNELS[1:]) if torch.compiler.is_compiling() else _without_cudnn():
        return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, mask, is_causal=is_causal, enable_gqa=N != K)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """As `sdpa_kernel` without cuDNN, which takes some 20 us of Python: half a millisecond a decoded token."""
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def _is_cuda(x: Tensor) -> bool:
    return x.device.type == "cuda"


def _takes_varlen(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def _load_varlen() -> None:
    global _varlen
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 takes grouped heads, by the same kernel, without being told.
    grouped: Any = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    _varlen = partial(varlen_attn, **grouped)


def _bounds(document_BT: Tensor) -> Tensor:
    """bounds_E of `PackedDocuments`."""
    starts_BT = F.pad(document_BT[:, 1:] != document_BT[:, :-1], (1, 0), value=True)
    starts = starts_BT.flatten().nonzero()[:, 0].int()
    room = max(MIN_BOUNDS, 1 << (len(starts) - 1).bit_length())
    return F.pad(starts, (0, room + 1 - len(starts)), value=document_BT.numel())


def _attend_apart(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, bounds_E: Tensor) -> Tensor:
    B, _, T, _ = q_BNTH.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BNTH, k_BKTH, v_BKTH))  # (B x T, heads, H), as stored
    y = cast("Tensor", _varlen(q, k, v, bounds_E, bounds_E, T, T, window_size=(-1, 0)))
    return y.view(B, T, *y.shape[1:]).transpose(1, 2)


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
