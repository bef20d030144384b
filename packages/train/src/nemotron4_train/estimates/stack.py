"""What software makes of a layout: its kernels, what it overlaps, and the bytes that it moves.

Invariant: facts of a program or measurements of single kernels, each with its source; nothing here is fitted on the
time of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nemotron4_train.estimates.layout import Layout, Sharding


class Attention(Enum):
    """A kernel of causal attention, by the share of the bf16 peak that it reaches forward and backward.

    FLOPs of the causal half alone are counted. Measured on an H100 with heads of 128 and 8,192 tokens: 306 and 166
    TFLOP/s for FlashAttention-2, 566 and 470 for cuDNN (flash-attention, pull request 1893).
    """

    flash2 = (0.31, 0.168)
    cudnn = (0.572, 0.475)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes moved by element-wise kernels, forward and backward, for each element of bf16 in a block."""

    hidden: tuple[int, int]
    """Norms and residual sums: for each of the hidden size."""
    qkv: tuple[int, int]
    """Cutting into heads and rotation: for each column of the product of queries, keys and values."""
    inner: tuple[int, int]
    """Squared ReLU: for each of the MLP's inner size."""


FUSED = Traffic(hidden=(20, 24), qkv=(4, 4), inner=(4, 6))
"""One kernel for each norm, sum, rotation and squared ReLU, as Transformer Engine has them: a norm reads and writes 4
bytes forward and 6 backward, a sum 6, the others 4 and, where backward reads the input again, 6."""
COMPILED = Traffic(hidden=(16, 24), qkv=(4, 4), inner=(4, 6))
"""Norm and sum in one kernel, and a second pass for the norm's weight in backward."""
EAGER = Traffic(hidden=(52, 76), qkv=(34, 34), inner=(8, 6))
"""Ours, kernel by kernel: norms and rotation in fp32, with a copy to it and back."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A training program."""

    attention: Attention
    traffic: Traffic
    pipelines_tensor: bool
    """Whether products and tensor-parallel collectives are cut into pieces that run beside each other."""
    gathers_inputs_again: bool
    """Whether tensor-parallel inputs are gathered again in backward instead of kept: 2 more collectives a block."""
    num_hidden_collectives: int
    """Tensor-parallel collectives of a block that run beside a product when nothing is cut into pieces."""
    fp8_speedup: float
    """Of a product, conversions included, over bf16."""
    gathers_fp8: bool
    """Whether tensor-parallel gathers move 1 byte an element when products are in fp8."""
    logit_bytes: int
    """Traffic of the loss and its gradient for each logit of bf16."""
    loss_in_forward: bool
    """Whether the head's gradients are computed in forward, and summed over chunks in fp32."""


def megatron(*, attention: Attention, pipelines_tensor: bool) -> Stack:
    """NVIDIA's programs, which the published steps were measured with.

    Sources: linear layers that gather again and reduce beside a product, Megatron-LM's tensor_parallel/layers.py; fp8
    with delayed scaling, 1.69 times bf16, and gathers in fp8, the documentation of Transformer Engine (GEMM profiling,
    measured on an H200; performance considerations). The loss is counted from Megatron-LM's unfused kernels.
    """
    return Stack(
        attention=attention,
        traffic=FUSED,
        pipelines_tensor=pipelines_tensor,
        gathers_inputs_again=True,
        num_hidden_collectives=4,
        fp8_speedup=1.69,
        gathers_fp8=True,
        logit_bytes=26,
        loss_in_forward=False,
    )


def ours(*, compiled: bool) -> Stack:
    """This project: collectives of DTensor, which are waited for at once, and a fused loss (6 bytes a logit).

    fp8 with dynamic scales: 1.58 times bf16 (the documentation of Transformer Engine, current scaling on an H200).
    """
    return Stack(
        attention=Attention.cudnn,
        traffic=COMPILED if compiled else EAGER,
        pipelines_tensor=False,
        gathers_inputs_again=False,
        num_hidden_collectives=0,
        fp8_speedup=1.58,
        gathers_fp8=False,
        logit_bytes=6,
        loss_in_forward=True,
    )


def usual_stack(layout: Layout) -> Stack:
    """The program that a layout's sharding implies."""
    if layout.sharding is Sharding.fsdp:
        return ours(compiled=layout.compile)
    return megatron(attention=Attention.cudnn, pipelines_tensor=True)
