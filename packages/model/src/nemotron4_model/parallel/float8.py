"""Matrix products of the blocks in float8, by torchao; norms, attention, embedding and head stay as they were.

Invariant: names and dtypes of parameters do not change: weights are cast for each product, with one dynamic scale a
tensor, and the optimiser sees fp32. The scale is that of the whole tensor over tensor-parallel ranks, but of each
rank's own sequences over data-parallel ones: losses agree between those no closer than float8 rounds.
The conversion comes first, so that the tensor plan finds the layers it cuts.
Source: float8 formats, arXiv 2209.05433; torchao.float8, whose tensor-wise dynamic scaling this is. Weights are
gathered by FSDP2 as without float8 (torchao's float8 all-gather stays off).
"""

import torch

from nemotron4_common.extras import check_installed
from nemotron4_model.transformer import Transformer


def check_float8() -> None:
    """Raise ValueError unless torchao is installed and this machine's GPU, where it has one, multiplies float8."""
    check_installed("precision.compute (fp8): needs torchao", ["torchao"], "nemotron4-model[float8]")
    can_multiply = not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)
    if not can_multiply:
        raise ValueError("precision.compute (fp8): needs an H100 or newer; use precision=bf16")


def convert_blocks(model: Transformer, *, emulate: bool = False) -> None:
    """Give the linear layers of the blocks float8 products, in place; `emulate` computes them in fp32 on any device."""
    check_float8()
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(model.blocks, config=Float8LinearConfig(emulate=emulate))
