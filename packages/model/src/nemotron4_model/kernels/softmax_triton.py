"""Triton kernels of softmax_gradient.py: statistics of each row of logits, and the gradient written over the logits.

A program of `statistics` reads its row once, keeping the largest logit so far and the sum of exponentials relative to
it (online softmax, arXiv 1805.02867); a program of `write_gradient` handles one block of one row. Both compute in fp32.
Only softmax_gradient.py imports this module, where Triton is installed and can compile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8_192
"""Logits that a program handles at a time."""
WARPS = 8


def row_statistics(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """largest_C, total_C = sum(exp(logits - largest)), and the logit of the target (0 if it is no column), in fp32."""
    C, V = logits_CV.shape
    largest_C, total_C, target_logit_C = torch.empty(3, C, dtype=torch.float32, device=logits_CV.device)
    _statistics[(C,)](
        logits_CV, targets_C, largest_C, total_C, target_logit_C, logits_CV.stride(0), V=V, BLOCK=BLOCK, num_warps=WARPS
    )
    return largest_C, total_C, target_logit_C


def write_gradient_(logits_CV: Tensor, targets_C: Tensor, largest_C: Tensor, total_C: Tensor) -> None:
    """Overwrite the logits by exp(logits - largest) / total - one_hot(target), rounded once to their dtype."""
    C, V = logits_CV.shape
    grid = C, triton.cdiv(V, BLOCK)
    _write_gradient[grid](
        logits_CV, targets_C, largest_C, total_C, logits_CV.stride(0), V=V, BLOCK=BLOCK, num_warps=WARPS
    )


@triton.jit
def _statistics(
    logits, targets, largest_out, total_out, target_logit_out, stride, V: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    columns = tl.arange(0, BLOCK)
    largest, total = -float("inf"), 0.0
    for first in range(0, V, BLOCK):
        block = tl.load(logits + first + columns, mask=first + columns < V, other=-float("inf")).to(tl.float32)
        new_largest = tl.maximum(largest, tl.max(block, axis=0))
        total = total * tl.exp(largest - new_largest) + tl.sum(tl.exp(block - new_largest), axis=0)
        largest = new_largest
    target = tl.load(targets + row)
    is_here = (target >= 0) & (target < V)
    target_logit = tl.load(logits + target, mask=is_here, other=0.0).to(tl.float32)
    tl.store(largest_out + row, largest)
    tl.store(total_out + row, total)
    tl.store(target_logit_out + row, target_logit)


@triton.jit
def _write_gradient(logits, targets, largests, totals, stride, V: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    block = tl.load(logits + columns, mask=columns < V).to(tl.float32)
    gradient = tl.exp(block - tl.load(largests + row)) * (1.0 / tl.load(totals + row))
    gradient -= tl.where(columns == tl.load(targets + row), 1.0, 0.0)
    tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=columns < V)
