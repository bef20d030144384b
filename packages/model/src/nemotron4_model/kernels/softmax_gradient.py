"""The loss of a chunk of logits, and its gradient in their place: softmax(logits) - one_hot(target).

Paths:
- on CUDA, where Triton is installed, with the C compiler and the headers of Python that it needs: two Triton kernels
  (softmax_triton.py);
- otherwise: torch's softmax in fp32, in place; logits of another dtype go through a buffer of fp32.

Bytes moved for each bf16 logit, counted from the kernels: Triton reads 2 for the loss, and reads 2 and writes 2 for
the gradient, 6 in all. The other path copies to fp32 (2 + 4), finds the largest (4), takes the softmax, which reads its
input more than once where a row does not fit in cache (8 to 12 + 4), finds the largest again (4) and copies back
(4 + 2): some 36. What that gains has not been measured on a GPU.

Invariant: both compute in fp32 from the same logits and round the gradient once, to the dtype of the logits.

Shapes: C tokens of one chunk, V words whose logits are here, of a vocabulary that the processes of a group may share.
"""

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def fp32_buffer(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """The memory that `softmax_gradient_` needs beside logits of this shape and dtype; None if it needs none."""
    if bytes_per_logit(dtype, device.type) == dtype.itemsize:
        return None
    return torch.empty(shape, dtype=torch.float32, device=device)


def bytes_per_logit(dtype: torch.dtype, device_type: str) -> int:
    """Bytes that a logit takes, those in the buffer included."""
    return dtype.itemsize if dtype == torch.float32 or _triton_is_usable(device_type) else 4 + dtype.itemsize


def softmax_gradient_(
    logits_CV: Tensor,
    targets_C: Tensor,
    buffer_CV: Tensor | None,
    *,
    group: dist.ProcessGroup | None,
    want_gradient: bool,
) -> Tensor:
    """Return nll_C in fp32, and overwrite the logits by the gradient of its sum, if wanted, or by anything.

    `buffer_CV` comes from `fp32_buffer` and has at least C rows. With a `group`, each of its processes holds the logits
    of some words, and a target that is none of them is out of 0..V-1: nll_C is that of the whole softmax.
    """
    if _triton_is_usable(logits_CV.device.type):
        with torch.cuda.device_of(logits_CV):  # Triton launches on the current device
            return _by_triton(logits_CV, targets_C, group, want_gradient)
    fp32_CV = logits_CV if buffer_CV is None else buffer_CV[: len(logits_CV)].copy_(logits_CV)
    nll_C = _to_probabilities(fp32_CV, targets_C, group)
    if want_gradient:
        here_C = (targets_C >= 0) & (targets_C < fp32_CV.shape[1])
        fp32_CV.scatter_add_(1, targets_C.where(here_C, 0)[:, None], -here_C.float()[:, None])
        if buffer_CV is not None:
            logits_CV.copy_(fp32_CV)
    return nll_C


@cache
def _triton_is_usable(device_type: str) -> bool:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return device_type == "cuda" and find_spec("triton") is not None and compiler is not None and has_headers


def _by_triton(logits_CV: Tensor, targets_C: Tensor, group: dist.ProcessGroup | None, want_gradient: bool) -> Tensor:
    from nemotron4_model.kernels.softmax_triton import row_statistics, write_gradient_

    largest_C, total_C, target_logit_C = row_statistics(logits_CV, targets_C)
    if group is not None:
        largest_here_C = largest_C.clone()
        dist.all_reduce(largest_C, dist.ReduceOp.MAX, group=group)
        sums_2C = torch.stack([total_C * (largest_here_C - largest_C).exp(), target_logit_C])
        dist.all_reduce(sums_2C, group=group)
        total_C, target_logit_C = sums_2C.unbind()
    if want_gradient:
        write_gradient_(logits_CV, targets_C, largest_C, total_C)
    return largest_C + total_C.log() - target_logit_C


def _to_probabilities(logits_CV: Tensor, targets_C: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Overwrite the logits, in fp32, with their softmax; return nll_C."""
    here_C = (targets_C >= 0) & (targets_C < logits_CV.shape[1])
    target_logit_C = logits_CV.gather(1, targets_C.where(here_C, 0)[:, None])[:, 0]
    largest_C = logits_CV.amax(dim=-1)
    torch.softmax(logits_CV, dim=-1, out=logits_CV)
    total_C = logits_CV.amax(dim=-1).reciprocal()  # of exp(logits - largest): the largest's softmax is exp(0) / total
    if group is None:
        return largest_C + total_C.log() - target_logit_C
    largest_here_C = largest_C.clone()
    dist.all_reduce(largest_C, dist.ReduceOp.MAX, group=group)
    part_C = total_C * (largest_here_C - largest_C).exp()
    sums_2C = torch.stack([part_C, target_logit_C * here_C])
    dist.all_reduce(sums_2C, group=group)
    logits_CV.mul_((part_C / sums_2C[0])[:, None])
    return largest_C + sums_2C[0].log() - sums_2C[1]
