"""Rotary positions: the cosines and sines of every position. `kernels/rotation.py` computes them, and rotates by them.

Invariant: tables are fp32 whatever the dtype of the model, and the same on every device.
Source: RoFormer (arXiv 2104.09864 section 3.4), on the first half of each head as in Nemotron-4.

Shapes: T positions, R half the number of dimensions that are rotated in each head.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nemotron4_model.config import ModelConfig
from nemotron4_model.kernels.rotation import rotary_tables


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
        config = self.config
        return rotary_tables(config.max_sequence_length, config.rotary_dim, config.rope_theta, device)

    def _apply(self, fn: Any, recurse: bool = True) -> "RotaryTables":
        """Move with the model, then compute the tables again.

        A cast would make bf16 angles, which are wrong beyond position 256; `to_empty` leaves no values at all.
        """
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        self.cos, self.sin = self._compute(self.cos.device)
        return self

    def forward(self, length: int, position_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tables cos_TR, sin_TR of positions 0..length-1, or cos_BTR, sin_BTR of the positions given.

        ValueError for a sequence longer than the tables.
        """
        if length > self.config.max_sequence_length:
            raise ValueError(
                f"model.max_sequence_length ({self.config.max_sequence_length}): this sequence has {length} "
                "tokens; shorten it or use a model with more positions"
            )
        if position_BT is None:
            return self.cos[:length], self.sin[:length]
        return self.cos[position_BT], self.sin[position_BT]
