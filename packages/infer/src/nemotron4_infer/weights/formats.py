"""How quantised weights are stored: the tensors that stand for a linear weight, the same for every device.

| format | tensors of a weight with F rows (outputs) and D columns (inputs) | the weight is |
|---|---|---|
| int8 | `weight` int8 (F, D), `weight_scale` bf16 (F, 1) | weight * scale |
| int4 | `weight` uint8 (F, D / 2), `weight_scale` and `weight_zero` bf16 (F, D / g) | (q - 8) * scale + zero |
| fp8 | `weight` float8_e4m3fn (F, D), `weight_scale` fp32 (F, 1) | weight * scale |

int4: a byte holds two columns, the even one in its upper half; each g columns of a row share a scale and a zero, where
g is the largest of 128, 64 and 32 that divides D. Weights whose shape the kernels of some device do not take are stored
as they are. The embedding is a look-up and stays; the output head is quantised like the linears of the blocks.
Nothing here needs torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nemotron4_infer.engine_config import Quantisation

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP_SIZE = 128
_LINEARS = ("attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight", "head.weight")
_BYTES = {"I8": 1, "U8": 1, "F8_E4M3": 1, "BF16": 2, "F32": 4}

Parts = dict[str, tuple[str, tuple[int, int]]]
"""By kind (`weight`, `weight_scale`, ...), the dtype, as safetensors names it, and the shape of a stored tensor."""


def is_linear(name: str) -> bool:
    """Whether our parameter `name` is the weight of a linear layer, the output head included."""
    return name.endswith(_LINEARS)


def group_size(in_features: int) -> int | None:
    """Columns that share an int4 scale; None if no size divides them."""
    return next((size for size in (GROUP_SIZE, 64, 32) if in_features % size == 0), None)


def stored_parts(quantization: Quantisation | None, name: str, shape: Sequence[int]) -> Parts | None:
    """The tensors that stand for our parameter `name`; None if it is stored as it is."""
    if quantization is None or not is_linear(name):
        return None
    rows, columns = shape
    if quantization is Quantisation.int8:
        # torch's CPU kernel reads beyond the end of rows of another width, and crashes.
        return {"weight": ("I8", (rows, columns)), "weight_scale": ("BF16", (rows, 1))} if columns % 16 == 0 else None
    if rows % 16:
        return None
    if quantization is Quantisation.fp8:
        return (
            {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": ("F32", (rows, 1))} if columns % 16 == 0 else None
        )
    if (group := group_size(columns)) is None:
        return None
    per_group = ("BF16", (rows, columns // group))
    return {"weight": ("U8", (rows, columns // 2)), "weight_scale": per_group, "weight_zero": per_group}


def parts_bytes(parts: Parts) -> int:
    """Bytes of the stored tensors, which are also those in memory."""
    return sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in parts.values())


def to_json(quantization: Quantisation) -> dict[str, Any]:
    """The `quantization_config` of config.json."""
    group = {"group_size": GROUP_SIZE} if quantization is Quantisation.int4 else {}
    return {"quant_method": "nemotron4", "format": quantization.value, **group}


def from_json(content: dict[str, Any], source: str) -> Quantisation | None:
    """The format of a parsed config.json; `source` names the file in ValueErrors, raised for any format but ours."""
    found = content.get("quantization_config")
    if found is None:
        return None
    for quantization in Quantisation:
        if found == to_json(quantization):
            return quantization
    known = ", ".join(quantization.value for quantization in Quantisation)
    raise ValueError(
        f"{source}: quantization_config ({found!r}): must be what `nemotron4 export quantization=` writes ({known}); "
        "quantise the original weights with engine.quantization="
    )
