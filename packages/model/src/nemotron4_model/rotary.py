"""Rotary positions: the tables of angles, and heads cut out of the fused projection and turned by them.

Invariant: angles are fp32 whatever the dtype of the model; the half-split layout pairs dimension i with i + R.
Source: RoFormer (arXiv 2104.09864 section 3.4), on the first half of each head as in Nemotron-4.

Shapes: B batch, T tokens, K key/value heads, G query heads per key/value head, N = K G, H head width, R rotated half.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nemotron4_model.config import ModelConfig


class RotaryTables(nn.Module):
    """Cosines and sines of every position, fp32 whatever the dtype of the model; not part of the saved state."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        cos_TR, sin_TR = self._compute(torch.get_default_device())
        self.register_buffer("cos", cos_TR, persistent=False)
        self.register_buffer("sin", sin_TR, persistent=False)

    def _compute(self, device: torch.device) -> tuple[Tensor, Tensor]:
        width = self.config.rotary_dim
        exponent_R = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        position_T = torch.arange(self.config.max_sequence_length, dtype=torch.float32, device=device)
        angle_TR = position_T[:, None] * (1.0 / self.config.rope_theta**exponent_R)
        return angle_TR.cos(), angle_TR.sin()

    def fill(self) -> None:
        """Compute the tables anew: needed after `to_empty`, which leaves them without values."""
        self.cos, self.sin = self._compute(self.cos.device)

    def _apply(self, fn: Any, recurse: bool = True) -> "RotaryTables":
        """Move with the model, but stay fp32 when it is cast: bf16 angles are wrong beyond position 256."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        if self.cos.dtype != torch.float32:
            self.fill()
        return self

    def forward(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Tables cos_TR, sin_TR of positions start..start+length-1."""
        if start + length > self.config.max_sequence_length:
            raise ValueError(
                f"model.max_sequence_length ({self.config.max_sequence_length}) is less than the {start + length} "
                "tokens of this sequence; shorten it or use a model with more positions"
            )
        return self.cos[start : start + length], self.sin[start : start + length]


def split_and_rotate(qkv_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut G + 2 rows a key/value head (its queries, its key, its value) into q_BTNH and k_BTKH, turned, and v_BTKH.

    The tables may be of each row of the batch (cos_BTR).
    """
    # torch leaves apply without annotations
    qkv: tuple[Tensor, Tensor, Tensor] = _SplitAndRotate.apply(qkv_BTKGH, cos_TR, sin_TR)  # type: ignore[no-untyped-call]
    return qkv


class _SplitAndRotate(torch.autograd.Function):
    """One gradient, each part of it written in its place: autograd would add up three padded with zeros."""

    @staticmethod
    def forward(ctx: Any, qkv_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos_TR, sin_TR)
        ctx.shape = qkv_BTKGH.shape
        turn = _Turn(cos_TR, sin_TR, qkv_BTKGH.shape[-1])
        q_BTNH, k_BTKH = turn(qkv_BTKGH[..., :-2, :]).flatten(2, 3), turn(qkv_BTKGH[..., -2, :])
        if k_BTKH.dtype != qkv_BTKGH.dtype:  # a cast to the same dtype is an alias, whose gradient torch 2.11 loses
            q_BTNH, k_BTKH = q_BTNH.to(qkv_BTKGH.dtype), k_BTKH.to(qkv_BTKGH.dtype)
        return q_BTNH, k_BTKH, qkv_BTKGH[..., -1, :].clone()  # a copy: backward's keeping it must not hold the others

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad_q_BTNH, grad_k_BTKH, grad_v_BTKH = grad_outputs
        cos_TR, sin_TR = ctx.saved_tensors
        turn_back = _Turn(cos_TR, -sin_TR, ctx.shape[-1])
        dtype, grad_q_BTKGH = grad_v_BTKH.dtype, grad_q_BTNH.reshape(*ctx.shape[:3], -1, ctx.shape[-1])
        if torch.compiler.is_compiling():
            turned = turn_back(grad_q_BTKGH).to(dtype), turn_back(grad_k_BTKH).to(dtype).unsqueeze(-2)
            return torch.cat((*turned, grad_v_BTKH.unsqueeze(-2)), dim=-2), None, None
        grad_BTKGH = grad_q_BTNH.new_empty(ctx.shape)
        grad_BTKGH[..., :-2, :] = turn_back(grad_q_BTKGH)
        grad_BTKGH[..., -2, :] = turn_back(grad_k_BTKH)
        grad_BTKGH[..., -1, :] = grad_v_BTKH
        return grad_BTKGH, None, None


class _Turn:
    """Turns the first 2R of a head's H dimensions, i with i + R, by the angles of the tables.

    Whole heads at a time, multiplying by ones and zeros too: on a processor, loops over only R neighbours are slow. The
    compiler, which makes one loop of it all, is given the formula itself.
    """

    def __init__(self, cos_TR: Tensor, sin_TR: Tensor, head_dim: int) -> None:
        self.cos_TR, self.sin_TR = cos_TR, sin_TR
        self.R = R = cos_TR.shape[-1]
        rest = head_dim - 2 * R
        self.itself_TH = F.pad(torch.cat((cos_TR, cos_TR), dim=-1), (0, rest), value=1.0)
        # H - R wide: what dimension i gets of i + R, and i + R of i.
        self.of_later_TH = F.pad(-sin_TR, (0, rest))
        self.of_earlier_TH = F.pad(sin_TR, (0, rest))

    def __call__(self, x: Tensor) -> Tensor:
        """x_BTKH or x_BTKGH turned, in fp32 or wider."""
        x = x.to(torch.promote_types(x.dtype, self.itself_TH.dtype))  # once, rather than in each of what follows
        index = (..., *(None,) * (x.ndim - 3), slice(None))
        if torch.compiler.is_compiling():
            cos, sin = self.cos_TR[index], self.sin_TR[index]
            a, b, rest = x.split([self.R, self.R, x.shape[-1] - 2 * self.R], dim=-1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
        y = x * self.itself_TH[index]
        y[..., : -self.R].addcmul_(x[..., self.R :], self.of_later_TH[index])
        y[..., self.R :].addcmul_(x[..., : -self.R], self.of_earlier_TH[index])
        return y
