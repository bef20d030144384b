"""The activation of the MLP: relu(x)^2.

Paths:
- under torch.compile: the formula; the compiler decides what to keep for backward, and fuses it;
- otherwise: one autograd function that overwrites its input and keeps only relu(x) for backward.

Source: squared ReLU, Primer (arXiv 2109.08668) section 3.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def squared_relu_(x: Tensor) -> Tensor:
    """relu(x)^2. May overwrite x, so nothing else may read x afterwards."""
    if torch.compiler.is_compiling():
        return torch.relu(x).square()
    y: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]  # torch's
    return y


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.detach().relu_()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        zero = positive.new_zeros(())
        return torch.addcmul(zero, grad_outputs[0], positive, value=2)  # 2 x gradient x relu(x), in one pass
