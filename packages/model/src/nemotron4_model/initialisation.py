"""Initial weights that do not depend on how the model is sharded.

Invariant: the full tensor of a parameter is a pure function of (seed, parameter name, shape). It consists of blocks of
rows, each drawn from a seed of its own, and a rank draws the blocks that it holds a part of, one at a time. (torch's
own reset of CPU DTensors gives every rank the same shard.)
Source: normal(0, 0.0134), with residual projections scaled by 1/sqrt(2L), as in Megatron-LM (arXiv 1909.08053 section
5.1) and NVIDIA's Nemotron-4 15B recipe; zero-centred norms start at 0.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nemotron4_model.config import ModelConfig
from nemotron4_model.shards import local_indices
from nemotron4_model.transformer import Transformer

_RESIDUAL = ("attention.out.weight", "mlp.down.weight")
_NORM = ("norm.weight", "norm.bias")


BLOCK_NUMBERS = 1 << 22
"""Most numbers that are drawn from one seed, if a row has no more: a rank draws the blocks that its part touches."""


def initialise(model: Transformer, seed: int, config: ModelConfig) -> None:
    """Fill every parameter in place. The model, sharded or not, must have storage: call it after `to_empty`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert not parameter.is_meta, f"{name} has no storage: call model.to_empty(device=...) first"
            own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if name.endswith(_NORM):
                own.zero_()
                continue
            std = config.init_std / math.sqrt(2 * config.num_layers) if name.endswith(_RESIDUAL) else config.init_std
            rows, columns = map(_as_range, local_indices(parameter))
            num_rows, width = parameter.shape
            for block in _blocks(num_rows, width):
                first, last = max(block.start, rows.start), min(block.stop, rows.stop)
                if first < last and columns:
                    drawn = torch.empty(len(block), width, device="cpu")
                    drawn.normal_(0.0, std, generator=_generator(seed, name, block.start))
                    part = drawn[first - block.start : last - block.start, columns.start : columns.stop]
                    own[first - rows.start : last - rows.start].copy_(part)


def _blocks(num_rows: int, width: int) -> Iterator[range]:
    """The rows of each block."""
    step = max(1, BLOCK_NUMBERS // width)
    return (range(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _generator(seed: int, name: str, first_row: int) -> torch.Generator:
    text = f"{seed}:{name}:{first_row}" if first_row else f"{seed}:{name}"
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _as_range(indices: Tensor) -> range:
    """Indices that follow each other."""
    held: list[int] = indices.tolist()
    found = range(held[0], held[-1] + 1) if held else range(0)
    assert held == list(found), "this rank's part of a parameter is scattered"
    return found
