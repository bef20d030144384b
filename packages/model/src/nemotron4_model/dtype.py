"""The number formats of weights, activations and sums, with the names that all jobs use.

Hugging Face's config.json has torch's own names, float32 and bfloat16.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class DType(Enum):
    """A number format."""

    fp32 = "fp32"
    bf16 = "bf16"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype."""
        import torch  # imported here: composing jobs must not need torch

        return {DType.fp32: torch.float32, DType.bf16: torch.bfloat16}[self]

    @property
    def num_bytes(self) -> int:
        """Bytes of a number."""
        return {DType.fp32: 4, DType.bf16: 2}[self]
