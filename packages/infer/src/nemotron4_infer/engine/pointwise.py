"""What a step does between its matrix products, as few functions that torch.compile can make one kernel each.

Shapes: R rows (tokens), D hidden, F feed-forward, K key/value heads, G query heads per key/value head, N = K G, H head
width, R' half the number of rotated dimensions of a head, C tokens that the pool of keys and values holds.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise(x_RD: Tensor, gain_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """Layer norm in fp32; the result has the dtype of x."""
    return F.layer_norm(x_RD.float(), gain_D.shape, gain_D, bias_D, eps).to(x_RD.dtype)


def add_and_normalise(x_RD: Tensor, y_RD: Tensor, gain_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and its layer norm."""
    x_RD = x_RD + y_RD
    return x_RD, normalise(x_RD, gain_D, bias_D, eps)


def rotate_and_store(
    qkv_RKGH: Tensor, cos: Tensor, sin: Tensor, slot_R: Tensor, k_CKH: Tensor, v_CKH: Tensor
) -> Tensor:
    """Rotate the queries and the key of each row, put key and value at the row's slot, return the queries q_RNH.

    The G + 2 rows of a key/value head are its queries, its key and its value; cos and sin are (R, 1, 1, R'), fp32.
    """
    half = cos.shape[-1]
    a, b, rest = qkv_RKGH[:, :, :-1].split([half, half, qkv_RKGH.shape[-1] - 2 * half], dim=-1)
    rotated = torch.cat(((a * cos - b * sin).to(rest.dtype), (b * cos + a * sin).to(rest.dtype), rest), dim=-1)
    k_CKH.index_copy_(0, slot_R, rotated[:, :, -1])
    v_CKH.index_copy_(0, slot_R, qkv_RKGH[:, :, -1])
    return rotated[:, :, :-1].flatten(1, 2)


def squared_relu(x_RF: Tensor) -> Tensor:
    """relu(x)^2."""
    return x_RF.relu().square()


class Pointwise(NamedTuple):
    """These functions, compiled or not."""

    normalise: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    add_and_normalise: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotate_and_store: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    squared_relu: Callable[[Tensor], Tensor]


EAGER = Pointwise(normalise, add_and_normalise, rotate_and_store, squared_relu)


@cache
def compiled(backend: str = "inductor") -> Pointwise:
    """Each as one or two kernels, for any number of rows; compiling waits for the first call."""
    return Pointwise(*(_compile(function, backend) for function in EAGER))


def _compile(function: Callable[..., Any], backend: str) -> Any:
    return torch.compile(function, dynamic=True, backend=backend)
