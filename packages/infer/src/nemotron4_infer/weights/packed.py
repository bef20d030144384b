"""Linear layers whose weight oneDNN has put into the order in which it reads it.

Faster than `F.linear` on a CPU, in fp32 and in bf16, and 4 to 6 rows cost no more than one. torch reaches these
products only through operators of its own compiler, which are private: where they are missing, or refuse a shape or a
dtype, the layer is a PlainLinear.

Shapes: N rows, D input features, F output features.
"""

import torch
from torch import Tensor

from nemotron4_infer.weights.linear import LinearOperator, PlainLinear

_ROWS_HINT = 8
"""Rows for which oneDNN chooses the order of the weight; 1 makes every other number of rows slow."""


class PackedLinear:
    """x @ weight.T by oneDNN. RuntimeError or NotImplementedError where it refuses the weight."""

    row_multiple = 2
    """One row alone is summed in another order where D is large; two cost what one does."""
    least_rows = 4
    """With one or two rows oneDNN reads a weight from memory at two thirds of the speed, in fp32 on an AMD EPYC."""

    def __init__(self, weight_FD: Tensor) -> None:
        self.out_features, self.in_features = weight_FD.shape
        self.num_bytes = weight_FD.numel() * weight_FD.element_size()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_FD.contiguous(), _ROWS_HINT)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF in the dtype of x."""
        y_NF: Tensor = self._multiply(x_ND, self._packed, None, "none", [], "")
        return y_NF


def pack(weight_FD: Tensor) -> LinearOperator:
    """A PackedLinear where oneDNN takes the weight, a PlainLinear elsewhere."""
    if weight_FD.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return PlainLinear(weight_FD)
    try:
        packed = PackedLinear(weight_FD)
        packed(weight_FD.new_zeros(packed.row_multiple, packed.in_features))
    except (AttributeError, NotImplementedError, RuntimeError):
        return PlainLinear(weight_FD)
    return packed
