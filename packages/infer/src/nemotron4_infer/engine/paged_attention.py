"""Attention over keys and values that lie in pages of a pool, as a GPU reads them.

Paths:
- `PagedVarlen`: torch's `varlen_attn` with a block table. It has kernels for GPUs only, in bf16 and fp16, for pages of
  a multiple of 256 tokens; torch 2.11 does not have block tables.
- `Gathered`: copies the keys and values of each sequence into one piece, then attends. It is the reference of the other
  path, and takes its place where that does not work.

A single token sees all keys of its sequence, so it needs no causal mask. It must not ask for one either: only without a
window does the kernel compute the query heads of a key/value head together and split long sequences over the GPU.

None of this has run on a GPU.

Shapes: R single tokens, S prompts, Q tokens of all prompts, N query heads, K key/value heads, G = N / K, H head width,
A pages in the pool, P tokens of a page, W pages of the widest sequence.
"""

import inspect
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from nemotron4_model.kernels.attention import attend

KERNEL_PAGE_TOKENS = 256
"""A page of `varlen_attn` is a multiple of this."""

_WITH_MASK = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompts:
    """New tokens of several sequences, one sequence after the other, that attend causally."""

    table_SW: Tensor  # noqa: N815 (shapes in names)
    """int32: the pages of each sequence, in order."""
    bounds_E: Tensor  # noqa: N815 (shapes in names)
    """int32, S + 1: where each sequence begins in Q, then Q."""
    length_S: Tensor  # noqa: N815 (shapes in names)
    """int32: tokens of each sequence, the new ones included."""
    spans: Sequence[tuple[int, int]]
    """The same on the host: each sequence's tokens before these, and its new tokens."""


class PagedAttention(Protocol):
    """One layer's attention; keys and values of the new tokens are in the pool already."""

    def single(self, q_RNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, table_RW: Tensor, length_R: Tensor) -> Tensor:
        """y_RNH: each row is one token, which sees the first `length` tokens of its table (int32 both).

        It neither waits for the GPU nor reads lengths on the host, so that a CUDA graph can hold it.
        """

    def prompts(self, q_QNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, prompts: Prompts) -> Tensor:
        """y_QNH: each token sees its sequence up to itself."""


class Gathered:
    """The keys and values of each sequence in one piece, then `F.scaled_dot_product_attention`."""

    def single(self, q_RNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, table_RW: Tensor, length_R: Tensor) -> Tensor:
        """y_RNH; the query heads of a key/value head are the queries of one attention."""
        K = k_APKH.shape[2]
        k_RKCH, v_RKCH = (_in_one_piece(pool, table_RW) for pool in (k_APKH, v_APKH))
        index_C = torch.arange(k_RKCH.shape[2], device=length_R.device)
        sees_R11C = (index_C < length_R[:, None])[:, None, None]
        # cuDNN would build a plan for each shape, also while a graph is recorded.
        with sdpa_kernel(_WITH_MASK) if q_RNH.is_cuda else nullcontext():
            y_RKGH = F.scaled_dot_product_attention(q_RNH.unflatten(1, (K, -1)), k_RKCH, v_RKCH, sees_R11C)
        return y_RKGH.flatten(1, 2)

    def prompts(self, q_QNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, prompts: Prompts) -> Tensor:
        """y_QNH, one sequence after the other."""
        parts, first, page = [], 0, k_APKH.shape[1]
        for table_W, (begin, count) in zip(prompts.table_SW, prompts.spans, strict=True):
            end = begin + count
            pages = table_W[None, : -(-end // page)]
            k_1KSH, v_1KSH = (_in_one_piece(pool, pages)[:, :, :end] for pool in (k_APKH, v_APKH))
            q_1NTH = q_QNH[None, first : first + count].transpose(1, 2)
            parts.append(attend(q_1NTH, k_1KSH, v_1KSH, begin)[0].transpose(0, 1))
            first += count
        return torch.cat(parts)


def _in_one_piece(pool_APKH: Tensor, table_RW: Tensor) -> Tensor:
    """x_RKCH, C = W x P."""
    R, W = table_RW.shape
    pages = pool_APKH.index_select(0, table_RW.flatten())
    return pages.view(R, W * pool_APKH.shape[1], *pool_APKH.shape[2:]).transpose(1, 2)


class PagedVarlen:
    """torch's attention kernel, which follows the block table itself."""

    def __init__(self, num_splits: int | None = None) -> None:
        """num_splits=1 never splits a sequence, so that the bits do not depend on the other sequences."""
        self._options: dict[str, Any] = {"enable_gqa": True, "num_splits": num_splits}

    def single(self, q_RNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, table_RW: Tensor, length_R: Tensor) -> Tensor:
        """y_RNH."""
        bounds_E = torch.arange(len(q_RNH) + 1, dtype=torch.int32, device=q_RNH.device)
        return self._attend(q_RNH, k_APKH, v_APKH, bounds_E, 1, table_RW, length_R, (-1, -1))

    def prompts(self, q_QNH: Tensor, k_APKH: Tensor, v_APKH: Tensor, prompts: Prompts) -> Tensor:
        """y_QNH. The kernel aligns the causal mask to the last key."""
        longest = max(count for _, count in prompts.spans)
        table_SW, length_S = prompts.table_SW, prompts.length_S
        return self._attend(q_QNH, k_APKH, v_APKH, prompts.bounds_E, longest, table_SW, length_S, (-1, 0))

    def _attend(
        self,
        q_QNH: Tensor,
        k_APKH: Tensor,
        v_APKH: Tensor,
        bounds_E: Tensor,
        longest: int,
        table_SW: Tensor,
        length_S: Tensor,
        window: tuple[int, int],
    ) -> Tensor:
        # With a block table only the number of the keys' bounds is looked at; lengths say how many keys there are.
        widest = table_SW.shape[1] * k_APKH.shape[1]
        y = varlen_attn(
            q_QNH, k_APKH, v_APKH, bounds_E, bounds_E, longest, widest,
            window_size=window, seqused_k=length_S, block_table=table_SW, **self._options,
        )  # fmt: skip
        return cast("Tensor", y)


def takes_block_tables() -> bool:
    """Whether this torch's `varlen_attn` knows block tables: 2.13 does, 2.11 does not."""
    return {"block_table", "seqused_k", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys()


def choose_attention(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], page_tokens: int, num_splits: int | None
) -> PagedAttention:
    """The kernel where it works for (N, K, H) = `heads`, tried once, else `Gathered`, with a line in the log."""
    why = _why_not(device, dtype, heads, page_tokens, num_splits)
    if why is None:
        return PagedVarlen(num_splits)
    _log.warning("attention gathers pages, which is slower: %s", why)
    return Gathered()


def _why_not(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], page_tokens: int, num_splits: int | None
) -> str | None:
    if not takes_block_tables():
        return f"torch {torch.__version__} has no attention with block tables (2.13 has)"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"its kernel takes bf16 and fp16, not {dtype}"
    if page_tokens % KERNEL_PAGE_TOKENS:
        return f"its pages are multiples of {KERNEL_PAGE_TOKENS} tokens, not {page_tokens}"
    try:
        error = _error_of(PagedVarlen(num_splits), device, dtype, heads, page_tokens)
    except (RuntimeError, NotImplementedError, TypeError) as fault:
        return str(fault).splitlines()[0]
    return None if error < 0.02 else f"its kernel is off by {error:.2g} of the result"


def _error_of(
    kernel: PagedVarlen, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], page_tokens: int
) -> float:
    """How far the kernel is from `Gathered`, relative, for two rows and two prompts in pages out of order."""
    N, K, H = heads
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    k_APKH, v_APKH = draw(4, page_tokens, K, H), draw(4, page_tokens, K, H)
    table = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32, device=device)
    spans = [(page_tokens, 5), (0, 3)]
    length = torch.tensor([begin + count for begin, count in spans], dtype=torch.int32, device=device)
    prompts = Prompts(table, torch.tensor([0, 5, 8], dtype=torch.int32, device=device), length, spans)
    q_single, q_prompts, errors = draw(2, N, H), draw(8, N, H), []
    found = kernel.single(q_single, k_APKH, v_APKH, table, length), kernel.prompts(q_prompts, k_APKH, v_APKH, prompts)
    reference = Gathered()
    wanted = (
        reference.single(q_single, k_APKH, v_APKH, table, length),
        reference.prompts(q_prompts, k_APKH, v_APKH, prompts),
    )
    for one, other in zip(found, wanted, strict=True):
        errors.append(float((one.float() - other.float()).norm() / other.float().norm()))
    return max(error if error == error else float("inf") for error in errors)
