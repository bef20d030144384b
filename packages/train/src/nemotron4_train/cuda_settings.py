"""Settings of the processes that train on CUDA. Imports nothing heavy: the allocator's come before torch.

TF32 stays off, as torch has it: fp32 is the reference, and other precisions do not use it.
"""

from __future__ import annotations

import os

_ALLOCATOR, _OLDER_NAME = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"


def let_segments_grow() -> None:
    """Have torch's allocator extend its segments in place, unless the environment configures it already.

    Phases differ in batch and length, and would otherwise leave gaps that no later block fits. Torch reads the variable
    when CUDA starts, in this process and in those that inherit the environment.
    """
    if not os.environ.keys() & {_ALLOCATOR, _OLDER_NAME}:
        os.environ[_ALLOCATOR] = "expandable_segments:True"


def sum_in_fp32() -> None:
    """Have bf16 products keep their partial sums in fp32: the head's gradient sums over the whole vocabulary."""
    import torch

    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
