"""The model's forward pass over rows of any sequences, in few operators.

Each row is one token of some sequence at its own position; what the rows attend to is the caller's. The arithmetic is
that of `nemotron4_model.Transformer` up to the order of fp32 sums, but rotary tables are read once a step, all heads of
a row are turned together, and results overwrite what is no longer needed.

Invariant: a row's result depends on that row alone as far as the linear operators' does. The rotation multiplies and
adds in separate operators, since fused they may round differently at the end of a vector.

Shapes: N rows, D hidden, K key/value heads, G query heads per key/value head, H head width, R half the rotated
dimensions, Q all of them, E = K G H.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nemotron4_infer.weights.engine_weights import EngineWeights, Norm

Attend = Callable[[int, Tensor], Tensor]
"""(layer, qkv_NKGH) to y_NE: attention of one layer. Each key/value head's rows are its G queries and its key, which
are rotated, and its value; keys and values are to be stored."""


def forward(weights: EngineWeights, ids_N: Tensor, position_N: Tensor, attend: Attend) -> Tensor:
    """x_ND, which the head makes logits of."""
    config = weights.config
    heads = (-1, config.num_queries_per_key_value_head + 2, config.attention_head_dim)
    rotation = _Rotation(weights, position_N)
    x_ND = weights.embedding_VD.index_select(0, ids_N)
    for layer, block in enumerate(weights.blocks):
        qkv_NKGH = block.qkv(_normalise(block.attention_norm, x_ND)).unflatten(-1, heads)
        rotation.turn_(qkv_NKGH[:, :, :-1])
        x_ND.add_(block.out(attend(layer, qkv_NKGH)))
        up_NF = block.up(_normalise(block.mlp_norm, x_ND)).relu_()
        x_ND.add_(block.down(up_NF.mul_(up_NF)))
    return _normalise(weights.norm, x_ND)


def _normalise(norm: Norm, x_ND: Tensor) -> Tensor:
    shape = norm.gain_D.shape
    if x_ND.device.type == "cpu":  # its kernel takes other dtypes beside fp32 gains, and computes in fp32
        return torch.layer_norm(x_ND, shape, norm.gain_D, norm.bias_D, norm.eps)
    return F.layer_norm(x_ND.float(), shape, norm.gain_D, norm.bias_D, norm.eps).to(x_ND.dtype)


class _Rotation:
    """Turns the first Q dimensions of heads by their rows' positions: dimension i with i + R."""

    def __init__(self, weights: EngineWeights, position_N: Tensor) -> None:
        cos_NR, sin_NR = weights.cos_PR.index_select(0, position_N), weights.sin_PR.index_select(0, position_N)
        self.itself_N11Q = torch.cat((cos_NR, cos_NR), dim=-1)[:, None, None]
        self.other_N11Q = torch.cat((-sin_NR, sin_NR), dim=-1)[:, None, None]
        self.R = cos_NR.shape[-1]

    def turn_(self, x_NKGH: Tensor) -> None:
        """In place, computed in fp32."""
        x_NKGQ = x_NKGH[..., : 2 * self.R]
        other_NKGQ = torch.cat((x_NKGQ[..., self.R :], x_NKGQ[..., : self.R]), dim=-1)
        if x_NKGQ.dtype == torch.float32:
            x_NKGQ.mul_(self.itself_N11Q).add_(other_NKGQ.mul_(self.other_N11Q))
        else:
            x_NKGQ.copy_((x_NKGQ * self.itself_N11Q).add_(other_NKGQ * self.other_N11Q))
