"""Cuts heads out of the fused qkv projection and rotates queries and keys by their positions, and makes the tables.

With the pair (a, b) = dimensions i and i + R of a head, a becomes a cos - b sin, and b becomes b cos + a sin; the
dimensions from 2R on stay as they are.

Paths:
- under torch.compile: this formula, which the compiler turns into one loop, and gradients put together by `cat`;
- otherwise: three multiply-adds over whole heads, ones and zeros included, because loops over only R neighbours are
  slow on a CPU, and gradients written in place.

Invariant: both compute in fp32 or wider, and give the dtype of the input; tables have the same bits on every device.
Source: RoFormer (arXiv 2104.09864 section 3.4).

Shapes: B batch, T tokens, K key/value heads, G query heads per key/value head, N = K G, H head width, R half the number
of dimensions that are rotated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotary_tables(num_positions: int, rotary_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tables cos_TR, sin_TR of positions 0..num_positions-1 in fp32; without values on the meta device.

    Computed by the CPU, in fp64: devices differ in the last bits of powers and cosines.
    """
    if device.type == "meta":
        empty_TR = torch.empty(num_positions, rotary_dim // 2, dtype=torch.float32, device=device)
        return empty_TR, empty_TR.clone()
    exponent_R = torch.arange(0, rotary_dim, 2, dtype=torch.float64, device="cpu") / rotary_dim
    position_T = torch.arange(num_positions, dtype=torch.float64, device="cpu")
    angle_TR = position_T[:, None] * theta**-exponent_R
    return angle_TR.cos().to(device, torch.float32), angle_TR.sin().to(device, torch.float32)


def split_and_rotate(qkv_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the G + 2 rows of each key/value head into queries q_BTNH, keys k_BTKH, both rotated, and values v_BTKH.

    The tables may differ by row of the batch (cos_BTR).
    """
    # torch leaves apply without annotations
    qkv: tuple[Tensor, Tensor, Tensor] = _SplitAndRotate.apply(qkv_BTKGH, cos_TR, sin_TR)  # type: ignore[no-untyped-call]
    return qkv


class _SplitAndRotate(torch.autograd.Function):
    """Writes each part of the gradient in place; autograd would instead add three gradients padded with zeros."""

    @staticmethod
    def forward(ctx: Any, qkv_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos_TR, sin_TR)
        ctx.shape = qkv_BTKGH.shape
        rotate = _rotation(cos_TR, sin_TR, qkv_BTKGH.shape[-1])
        q_BTNH, k_BTKH = rotate(qkv_BTKGH[..., :-2, :]).flatten(2, 3), rotate(qkv_BTKGH[..., -2, :])
        if k_BTKH.dtype != qkv_BTKGH.dtype:  # a cast to the same dtype is an alias, whose gradient torch 2.11 loses
            q_BTNH, k_BTKH = q_BTNH.to(qkv_BTKGH.dtype), k_BTKH.to(qkv_BTKGH.dtype)
        # The values are copied: backward keeps them, and a view would keep the queries and keys in memory too.
        return q_BTNH, k_BTKH, qkv_BTKGH[..., -1, :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad_q_BTNH, grad_k_BTKH, grad_v_BTKH = grad_outputs
        cos_TR, sin_TR = ctx.saved_tensors
        rotate_back = _rotation(cos_TR, -sin_TR, ctx.shape[-1])
        dtype, grad_q_BTKGH = grad_v_BTKH.dtype, grad_q_BTNH.reshape(*ctx.shape[:3], -1, ctx.shape[-1])
        if torch.compiler.is_compiling():
            rotated = rotate_back(grad_q_BTKGH).to(dtype), rotate_back(grad_k_BTKH).to(dtype).unsqueeze(-2)
            return torch.cat((*rotated, grad_v_BTKH.unsqueeze(-2)), dim=-2), None, None
        grad_BTKGH = grad_q_BTNH.new_empty(ctx.shape)
        grad_BTKGH[..., :-2, :] = rotate_back(grad_q_BTKGH)
        grad_BTKGH[..., -2, :] = rotate_back(grad_k_BTKH)
        grad_BTKGH[..., -1, :] = grad_v_BTKH
        return grad_BTKGH, None, None


def _rotation(cos_TR: Tensor, sin_TR: Tensor, head_dim: int) -> Callable[[Tensor], Tensor]:
    """A function that rotates x_BTKH or x_BTKGH by the tables, in fp32 or wider."""
    if torch.compiler.is_compiling():
        return partial(_rotate, cos_TR=cos_TR, sin_TR=sin_TR)
    return _WholeHeadRotation(cos_TR, sin_TR, head_dim)


def _rotate(x: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """The formula itself."""
    R, x = cos_TR.shape[-1], x.to(torch.promote_types(x.dtype, cos_TR.dtype))
    cos, sin = _for_heads(cos_TR, x), _for_heads(sin_TR, x)
    a, b, rest = x.split([R, R, x.shape[-1] - 2 * R], dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


class _WholeHeadRotation:
    """The formula by multiply-adds over whole heads, with tables widened by ones and zeros."""

    def __init__(self, cos_TR: Tensor, sin_TR: Tensor, head_dim: int) -> None:
        self.R = R = cos_TR.shape[-1]
        rest = head_dim - 2 * R
        self.itself_TH = F.pad(torch.cat((cos_TR, cos_TR), dim=-1), (0, rest), value=1.0)
        # H - R wide: the factor of dimension i + R in the new dimension i, and that of i in the new i + R.
        self.of_later_TH = F.pad(-sin_TR, (0, rest))
        self.of_earlier_TH = F.pad(sin_TR, (0, rest))

    def __call__(self, x: Tensor) -> Tensor:
        R, x = self.R, x.to(torch.promote_types(x.dtype, self.itself_TH.dtype))  # cast once, for all products below
        y = x * _for_heads(self.itself_TH, x)
        y[..., :-R].addcmul_(x[..., R:], _for_heads(self.of_later_TH, x))
        y[..., R:].addcmul_(x[..., :-R], _for_heads(self.of_earlier_TH, x))
        return y


def _for_heads(table: Tensor, x: Tensor) -> Tensor:
    """The table with a dimension of size 1 for each dimension of heads that x has."""
    return table[(..., *(None,) * (x.ndim - 3), slice(None))]
