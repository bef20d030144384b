"""Rotary positions: the tables of angles, and heads cut out of the fused projection and turned by them.

Invariant: angles are fp32 whatever the dtype of the model; the half-split layout pairs dimension i with i + R.
Source: RoFormer (arXiv 2104.09864 section 3.4), on the first half of each head as in Nemotron-4.

Shapes: B batch, T tokens, K key/value heads, G query heads per key/value head, N = K G, H head width, R rotated half.
"""

from typing import Any

import torch
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
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
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
    qkv: tuple[Tensor, Tensor, Tensor] = _SplitAndRotate.apply(qkv_BTKGH, cos_TR, sin_TR)  # type: ignore[no-untyped-call]
    return qkv


class _SplitAndRotate(torch.autograd.Function):
    """One gradient, each part of it written in its place: autograd would add up three padded with zeros."""

    @staticmethod
    def forward(ctx: Any, qkv_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos_TR, sin_TR)
        ctx.shape = qkv_BTKGH.shape
        qk_BTKGH = torch.empty_like(qkv_BTKGH[..., :-1, :])
        _turn(qkv_BTKGH[..., :-1, :], cos_TR, sin_TR, out=qk_BTKGH)
        # Copies, so that what backward keeps of one does not hold the others.
        q_BTNH = qk_BTKGH[..., :-1, :].flatten(2, 3)
        return q_BTNH, qk_BTKGH[..., -1, :].clone(), qkv_BTKGH[..., -1, :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad_q_BTNH, grad_k_BTKH, grad_v_BTKH = grad_outputs
        cos_TR, sin_TR = ctx.saved_tensors
        grad_BTKGH = grad_q_BTNH.new_empty(ctx.shape)
        _turn(grad_q_BTNH.reshape(*ctx.shape[:3], -1, ctx.shape[-1]), cos_TR, -sin_TR, out=grad_BTKGH[..., :-2, :])
        _turn(grad_k_BTKH[..., None, :], cos_TR, -sin_TR, out=grad_BTKGH[..., -2:-1, :])
        grad_BTKGH[..., -1, :] = grad_v_BTKH
        return grad_BTKGH, None, None


def _turn(x_BTKGH: Tensor, cos_TR: Tensor, sin_TR: Tensor, *, out: Tensor) -> None:
    """Write x with the first 2R of its H dimensions turned, i with i + R, by the angles of the tables."""
    R = cos_TR.shape[-1]
    cos_T11R, sin_T11R = cos_TR[..., None, None, :], sin_TR[..., None, None, :]
    a, b = x_BTKGH[..., :R], x_BTKGH[..., R : 2 * R]
    out[..., :R] = a * cos_T11R - b * sin_T11R
    out[..., R : 2 * R] = b * cos_T11R + a * sin_T11R
    out[..., 2 * R :] = x_BTKGH[..., 2 * R :]
