"""Linear layers of the engine: one class a format, all called alike.

Formats: plain (`F.linear`), oneDNN-packed (packed.py), int8, int4 and fp8 (quantised.py).
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class LinearOperator(Protocol):
    """x @ weight.T, with the weight in some format."""

    in_features: int
    out_features: int
    row_multiple: int
    """On a CPU the results have the same bits for any number of rows that is a multiple of this; the caller pads."""
    least_rows: int
    """On a CPU fewer rows than this take longer, not less; the caller pads."""
    num_bytes: int
    """Memory that the weight takes."""

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF in the dtype of x."""


class PlainLinear:
    """`F.linear`."""

    row_multiple, least_rows = 4, 1

    def __init__(self, weight_FD: Tensor) -> None:
        self.weight_FD = weight_FD
        self.out_features, self.in_features = weight_FD.shape
        self.num_bytes = weight_FD.numel() * weight_FD.element_size()

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF in the dtype of x."""
        return F.linear(x_ND, self.weight_FD)
