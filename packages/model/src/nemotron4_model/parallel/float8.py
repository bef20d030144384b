"""Matrix products of the blocks in float8, by torchao; norms, attention, embedding and head do not change.

Invariant: names and dtypes of parameters stay the same: weights are cast for each product, with one dynamic scale per
tensor, and the optimiser sees fp32. Each data-parallel rank
has the scale of its own sequences, so losses of different numbers of ranks agree only up to float8 rounding.
The conversion comes first, so that the tensor plan finds the layers that it splits.
Source: float8 formats, arXiv 2209.05433; torchao.float8, whose tensor-wise dynamic scaling this is. Weights are
gathered by FSDP2 as without float8 (torchao's float8 all-gather stays off).
"""

import torch

from nemotron4_common.extras import check_installed
from nemotron4_model.transformer import Transformer


def check_float8() -> None:
    """Raise ValueError unless torchao is installed and this machine's GPU, if it has one, can multiply float8."""
    check_installed("precision.compute (fp8): needs torchao", ["torchao"], "nemotron4-model[float8]")
    can_multiply = not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)
    if not can_multiply:
        raise ValueError("precision.compute (fp8): needs an H100 or newer; use precision=bf16")


def convert_blocks(model: Transformer, *, emulate: bool = False) -> None:
    """Make the blocks' linear layers multiply in float8, in place; `emulate` computes it in fp32, on any device."""
    check_float8()
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(model.blocks, config=Float8LinearConfig(emulate=emulate))
