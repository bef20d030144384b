"""All weights of a model as the engine's step reads them.

Shapes: V vocabulary, D hidden, P positions, R half the number of rotated dimensions of a head.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nemotron4_infer.weights.linear import LinearOperator
from nemotron4_infer.weights.packed import pack
from nemotron4_model import ModelConfig, Transformer
from nemotron4_model.transformer import Block, ZeroCentredLayerNorm


@dataclass(frozen=True)
class Norm:
    """A layer norm: its gain (1 + the stored weight) and its bias, both fp32."""

    gain_D: Tensor  # noqa: N815 (shapes in names)
    bias_D: Tensor  # noqa: N815 (shapes in names)
    eps: float


@dataclass(frozen=True)
class BlockWeights:
    """One block."""

    attention_norm: Norm
    qkv: LinearOperator
    out: LinearOperator
    mlp_norm: Norm
    up: LinearOperator
    down: LinearOperator


@dataclass(frozen=True)
class EngineWeights:
    """A model on one device."""

    config: ModelConfig
    dtype: torch.dtype
    """Of the activations, the keys and the values."""
    device: torch.device
    embedding_VD: Tensor  # noqa: N815 (shapes in names)
    blocks: list[BlockWeights]
    norm: Norm
    head: LinearOperator
    cos_PR: Tensor  # noqa: N815 (shapes in names)
    """fp32."""
    sin_PR: Tensor  # noqa: N815 (shapes in names)
    """fp32."""

    @property
    def linears(self) -> list[LinearOperator]:
        """Every linear layer, the head last."""
        return [*(each for b in self.blocks for each in (b.qkv, b.out, b.up, b.down)), self.head]


def from_transformer(model: Transformer, make: Callable[[Tensor], LinearOperator] = pack) -> EngineWeights:
    """The weights of a loaded model; `make` gives a linear weight its format, by default the fastest for its device."""
    blocks = [
        BlockWeights(
            attention_norm=_norm(block.attention_norm),
            qkv=make(block.attention.qkv.weight.detach()),
            out=make(block.attention.out.weight.detach()),
            mlp_norm=_norm(block.mlp_norm),
            up=make(block.mlp.up.weight.detach()),
            down=make(block.mlp.down.weight.detach()),
        )
        for block in cast("Iterable[Block]", model.blocks)
    ]
    weight = model.embedding.weight.detach()
    return EngineWeights(
        config=model.config,
        dtype=weight.dtype,
        device=weight.device,
        embedding_VD=weight,
        blocks=blocks,
        norm=_norm(model.norm),
        head=make(model.head.weight.detach()),
        cos_PR=model.rotary.cos,
        sin_PR=model.rotary.sin,
    )


def _norm(module: ZeroCentredLayerNorm) -> Norm:
    return Norm(module.weight.detach().float() + 1, module.bias.detach().float(), module.eps)
