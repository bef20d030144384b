"""Makes the kernels of this process choose, for tensors on a CPU, what they would choose on CUDA with Triton.

Fake tensors cannot be on CUDA where there is none: autograd asks its driver. Invariant: after it, operations allocate
and send what they do on CUDA: fused attention, a large chunk of logits with Triton's kernels, a head's gradient summed
in place, Muon in bf16. For the process of a dry run, which has no other use: nothing computes the right values then.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nemotron4_model import loss
from nemotron4_model.kernels import attention, softmax_gradient
from nemotron4_train import optimizers


def choose_as_on_cuda() -> None:
    """Change this process."""
    torch.set_num_threads(1)  # fp32 products by oneDNN need more
    attention.MAX_BLOCKED_TOKENS = 0
    softmax_gradient._triton_is_usable = lambda device_type: True  # type: ignore[assignment]  # a cached function
    kernels: Any = ModuleType("nemotron4_model.kernels.softmax_triton")
    kernels.row_statistics, kernels.write_gradient_ = _row_statistics, _write_gradient
    sys.modules[kernels.__name__] = kernels
    chunk_tokens = loss._chunk_tokens
    loss._chunk_tokens = lambda device_type, dtype, num_words: chunk_tokens("cuda", dtype, num_words)
    changed: Any = loss
    changed.WeightGradient = _WeightGradient
    optimizers._dtype = lambda device: torch.bfloat16


def _row_statistics(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, ...]:
    return torch.empty(3, len(logits_CV), dtype=torch.float32, device=logits_CV.device).unbind()


def _write_gradient(logits_CV: Tensor, targets_C: Tensor, largest_C: Tensor, total_C: Tensor) -> None:
    """Overwrites logits, in place."""


class _WeightGradient:
    """As kernels.linear.WeightGradient where products add to the sum themselves."""

    def __init__(self, weight_FD: Tensor) -> None:
        self.sum_FD = torch.empty_like(weight_FD, dtype=torch.float32)

    def add(self, grad_y_NF: Tensor, x_ND: Tensor) -> None:
        """Overwrites the sum, in place."""
