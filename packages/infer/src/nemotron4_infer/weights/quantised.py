"""Linear layers with quantised weights: int8, int4 and fp8; activations stay bf16.

Invariant: each operator gives x @ dequantise(weight).T up to the rounding of its sums, on every device; on a CPU with
the same bits for any number of rows. `quantise` works row by row, so rows may be quantised in any parts.
Weights are stored in a form that no device dictates (formats.py); an operator packs them for its device.

Kernels: on a CPU `_weight_int8pack_mm` and `_weight_int4pack_mm_for_cpu`, which are fast for bf16 activations only; fp8
has no CPU kernel, so its weights become bf16 there. On CUDA tinygemm for int4, `scaled_mm` with dynamically quantised
rows for fp8 (compute capability 8.9), and for int8, where torch's kernel uses no tensor cores, a product whose
conversion Inductor fuses for one row and which converts the whole weight for more: int4 and fp8 are the formats for
GPUs, int8 saves memory on those without fp8.

Shapes: N rows of activations, F outputs, D inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nemotron4_common.rules import require
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.formats import Parts, group_size, stored_parts, to_json
from nemotron4_infer.weights.linear import LinearOperator, PlainLinear
from nemotron4_model.hugging_face.config_json import QUANTISED

_aten = torch.ops.aten
_FP8 = torch.float8_e4m3fn
_FP8_MAX = 448.0
_FP8_CAPABILITY = (8, 9)
_DTYPES = {"I8": torch.int8, "U8": torch.uint8, "F8_E4M3": _FP8, "BF16": torch.bfloat16, "F32": torch.float32}
_ELEMENTS_AT_A_TIME = 4_000_000
_ROW_BLOCK = 64  # CPUs pack int4 weights in blocks of at most so many rows


def quantise(quantization: Quantisation, weight_FD: Tensor) -> dict[str, Tensor]:
    """The stored tensors of a weight whose shape the format takes, by kind; the weight may be of any float type."""
    weight_FD = weight_FD.float()
    if quantization is Quantisation.int4:
        return _quantise_int4(weight_FD)
    largest_F1 = weight_FD.abs().amax(1, keepdim=True)
    if quantization is Quantisation.fp8:
        scale_F1 = _nonzero(largest_F1 / _FP8_MAX)
        return {"weight": (weight_FD / scale_F1).clamp_(-_FP8_MAX, _FP8_MAX).to(_FP8), "weight_scale": scale_F1}
    # Integers are chosen for the scale as it is stored, so that its rounding costs nothing.
    scale_F1 = _nonzero((largest_F1 / 127).bfloat16())
    weight = (weight_FD / scale_F1.float()).round_().clamp_(-127, 127).to(torch.int8)
    return {"weight": weight, "weight_scale": scale_F1}


def _quantise_int4(weight_FD: Tensor) -> dict[str, Tensor]:
    weight_FCg = weight_FD.unflatten(1, (-1, _group_of(weight_FD.shape[1])))
    low_FC, high_FC = weight_FCg.amin(-1).clamp(max=0), weight_FCg.amax(-1).clamp(min=0)
    scale_FC = _nonzero(((high_FC - low_FC) / 15).bfloat16())
    zero_FC = (low_FC + 8 * scale_FC.float()).bfloat16()
    steps_FCg = (weight_FCg - zero_FC.float()[..., None]).div_(scale_FC.float()[..., None])
    q_FD = steps_FCg.round_().add_(8).clamp_(0, 15).to(torch.uint8).flatten(1)
    return {"weight": q_FD[:, ::2] << 4 | q_FD[:, 1::2], "weight_scale": scale_FC, "weight_zero": zero_FC}


def empty_parts(parts: Parts, device: torch.device) -> dict[str, Tensor]:
    """Memory for the stored tensors of a weight, by kind."""
    return {kind: torch.empty(shape, dtype=_DTYPES[dtype], device=device) for kind, (dtype, shape) in parts.items()}


def quantise_rows(
    quantization: Quantisation, name: str, shape: Sequence[int], read: Callable[[slice], Tensor], device: torch.device
) -> dict[str, Tensor]:
    """The stored tensors of a weight that `read` gives a part of the rows at a time, so that it is nowhere whole.

    ValueError, one line with the `name`, if the weight has values that are not finite.
    """
    parts = stored_parts(quantization, name, shape)
    assert parts is not None, "this weight stays as it is"
    whole = empty_parts(parts, device)
    for rows in _row_ranges(*shape):
        pieces = quantise(quantization, read(rows))
        if not pieces["weight_scale"].isfinite().all():
            raise ValueError(f"weight {name!r}: has values that are not finite, which no format can hold; train again")
        for kind, piece in pieces.items():
            whole[kind][rows] = piece
    return whole


def config_entries(quantization: Quantisation) -> dict[str, Any]:
    """For `write_pretrained`: what config.json of a directory with quantised weights says besides or instead."""
    return {**QUANTISED, "quantization_config": to_json(quantization)}


def encoder(quantization: Quantisation) -> Callable[[str, Tensor], dict[str, Tensor] | None]:
    """For `write_pretrained`: what to store instead of a weight, or None if it stays as it is."""

    def encode(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
        if stored_parts(quantization, name, tensor.shape) is None:
            return None
        return quantise_rows(quantization, name, tensor.shape, lambda rows: tensor[rows], tensor.device)

    return encode


def dequantise(quantization: Quantisation, parts: dict[str, Tensor]) -> Tensor:
    """The weight that stored tensors stand for, in fp32."""
    if quantization is not Quantisation.int4:
        return parts["weight"].float() * parts["weight_scale"].float()
    scale_FC1, zero_FC1 = (parts[kind].float().unsqueeze(-1) for kind in ("weight_scale", "weight_zero"))
    q_FCg: Tensor = _unpack(parts["weight"]).float().unflatten(1, (scale_FC1.shape[1], -1))
    return ((q_FCg - 8) * scale_FC1 + zero_FC1).flatten(1)


def quantised_linear(quantization: Quantisation, parts: dict[str, Tensor]) -> LinearOperator:
    """The operator of stored tensors, on their device, which `check_device` accepts. It may take the tensors over."""
    on_cuda = parts["weight"].is_cuda
    if quantization is Quantisation.int8:
        return Int8Linear(parts)
    if quantization is Quantisation.int4:
        return Int4Linear(parts)
    return Fp8Linear(parts) if on_cuda else PlainLinear(dequantise(quantization, parts).bfloat16())


def tile_operator(linear: LinearOperator) -> LinearOperator:
    """For many rows at once: on a CPU with matrix units for bf16 a weight is made bf16 for each product, since the
    kernels for quantised ones cost as much for each further row. Otherwise the operator itself."""
    if not torch.cpu._is_amx_tile_supported():
        return linear
    if isinstance(linear, Int8Linear) and not linear.weight_FD.is_cuda:
        return Int8TileLinear(linear)
    if isinstance(linear, Int4Linear) and not linear.packed.is_cuda and Int4TileLinear.knows_layout_of(linear):
        return Int4TileLinear(linear)
    return linear


def check_device(quantization: Quantisation, device: torch.device) -> None:
    """Raise ValueError, one line, if the device cannot compute with the format."""
    if quantization is Quantisation.fp8 and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        rule = "needs a GPU of compute capability 8.9 or newer, such as an H100; use int4"
        require(found >= _FP8_CAPABILITY, "engine.quantization", f"fp8, on capability {found[0]}.{found[1]}", rule)


class Int8Linear:
    """Eight bits a weight, one scale a row."""

    row_multiple, least_rows = 1, 1

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.weight_FD, self.scale_F = parts["weight"], parts["weight_scale"].flatten()
        self.out_features, self.in_features = self.weight_FD.shape
        self.num_bytes = _num_bytes(self.weight_FD, self.scale_F)
        assert self.in_features % 16 == 0, "the CPU kernel crashes on other widths"

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF, both bf16."""
        if not x_ND.is_cuda:
            return _aten._weight_int8pack_mm(x_ND, self.weight_FD, self.scale_F)  # type: ignore[no-any-return]  # an operator's result is Any
        product = _fused_int8_product() if len(x_ND) == 1 else _int8_product
        return product(x_ND, self.weight_FD, self.scale_F)


class Int8TileLinear:
    """The weight of an Int8Linear, which is made bf16 for each product."""

    row_multiple, least_rows = 1, 1

    def __init__(self, linear: Int8Linear) -> None:
        self.weight_FD, self.scale_F = linear.weight_FD, linear.scale_F
        self.in_features, self.out_features, self.num_bytes = linear.in_features, linear.out_features, linear.num_bytes

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF, both bf16."""
        return _int8_product(x_ND, self.weight_FD, self.scale_F)


class Int4Linear:
    """Four bits a weight, a scale and a zero for each group of columns."""

    row_multiple, least_rows = 1, 1

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.out_features, self.in_features = len(parts["weight"]), 2 * parts["weight"].shape[1]
        self.group_size = _group_of(self.in_features)
        scales_FC2 = torch.stack((parts["weight_scale"], parts["weight_zero"]), dim=-1)
        self.scales_CF2 = scales_FC2.transpose(0, 1).contiguous()
        self.packed = _pack_int4(parts["weight"], self.group_size)
        self.num_bytes = _num_bytes(self.packed, self.scales_CF2)
        self._product = _aten._weight_int4pack_mm if self.packed.is_cuda else _aten._weight_int4pack_mm_for_cpu

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF, both bf16."""
        return self._product(x_ND, self.packed, self.group_size, self.scales_CF2)  # type: ignore[no-any-return]  # an operator's result is Any


class Int4TileLinear:
    """The weight of an Int4Linear, which is made bf16 for each product.

    CPUs with matrix units pack 64 rows a block: B blocks, D columns, 32 bytes, of which byte j holds rows j and j + 32.
    """

    row_multiple, least_rows = 1, 1

    def __init__(self, linear: Int4Linear) -> None:
        self.packed, self.num_bytes = linear.packed, linear.num_bytes
        self.in_features, self.out_features = linear.in_features, linear.out_features
        C, F = linear.scales_CF2.shape[:2]
        in_order = linear.scales_CF2.view(C, F // _ROW_BLOCK, 2, -1, 2).transpose(2, 3).reshape(C, 1, F, 2)
        self.scale_C1F, self.zero_C1F = (each.contiguous() for each in in_order.unbind(-1))

    @staticmethod
    def knows_layout_of(linear: Int4Linear) -> bool:
        """Whether the weight is packed as described."""
        if linear.out_features % _ROW_BLOCK != 0:
            return False
        block_D32 = linear.packed[:_ROW_BLOCK].view(linear.in_features, -1)
        rows_FD = torch.cat((block_D32 & 15, block_D32 >> 4), dim=1).t().int().contiguous()
        return torch.equal(_aten._convert_weight_to_int4pack_for_cpu(rows_FD, 1), linear.packed[:_ROW_BLOCK])

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF, both bf16."""
        D, F = self.in_features, self.out_features
        pairs = self.packed.view(-1, D, 32).transpose(0, 1).to(torch.int32, memory_format=torch.contiguous_format)
        # The bits of 128 + q in bf16, of both halves of a byte.
        pairs.mul_(0x1001).bitwise_and_(0x000F000F).bitwise_or_(0x43004300)
        w_CgF = pairs.view(D, -1).view(torch.bfloat16).view(len(self.scale_C1F), -1, F).sub_(136)
        torch.addcmul(self.zero_C1F, w_CgF, self.scale_C1F, out=w_CgF)
        return (x_ND @ w_CgF.view(D, F)).view(-1, F // _ROW_BLOCK, 32, 2).transpose(2, 3).flatten(1)


class Fp8Linear:
    """Eight-bit floats with a scale a row; on CUDA only, where each row of activations is quantised likewise."""

    row_multiple, least_rows = 1, 1

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.weight_FD, self.scale_1F = parts["weight"], parts["weight_scale"].view(1, -1)
        self.out_features, self.in_features = self.weight_FD.shape
        self.num_bytes = _num_bytes(self.weight_FD, self.scale_1F)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF, both bf16."""
        rowwise = F.ScalingType.RowWise
        row = quantise(Quantisation.fp8, x_ND)
        return F.scaled_mm(
            row["weight"], self.weight_FD.t(), row["weight_scale"], rowwise, self.scale_1F, rowwise,
            output_dtype=torch.bfloat16, use_fast_accum=True,
        )  # fmt: skip


def _int8_product(x_ND: Tensor, weight_FD: Tensor, scale_F: Tensor) -> Tensor:
    return F.linear(x_ND, weight_FD.to(x_ND.dtype)) * scale_F


@cache
def _fused_int8_product() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """For one row Inductor, so tuned, makes the product a sum that reads the int8 weight itself."""
    return torch.compile(_int8_product, options={"coordinate_descent_tuning": True})


def _pack_int4(bytes_FE: Tensor, group: int) -> Tensor:
    """The layout of the device's kernel, made a part of the rows at a time: a CPU packs from 32-bit integers."""
    if bytes_FE.is_cuda:
        return _aten._convert_weight_to_int4pack(bytes_FE, group // 16)  # type: ignore[no-any-return]  # an operator's result is Any
    packed = torch.empty_like(bytes_FE)
    for rows in _row_ranges(*bytes_FE.shape):
        packed[rows] = _aten._convert_weight_to_int4pack_for_cpu(_unpack(bytes_FE[rows]).int(), 1)
    return packed


def _row_ranges(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Parts of a weight's rows, so that what is made on the way stays small."""
    step = max(_ROW_BLOCK, _ELEMENTS_AT_A_TIME // num_columns // _ROW_BLOCK * _ROW_BLOCK)
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def _unpack(bytes_FE: Tensor) -> Tensor:
    return torch.stack((bytes_FE >> 4, bytes_FE & 15), dim=-1).flatten(1)


def _group_of(in_features: int) -> int:
    group = group_size(in_features)
    assert group is not None, "weights of this width are not stored as int4"
    return group


def _nonzero(scale: Tensor) -> Tensor:
    """Any scale serves for zeros."""
    return scale.masked_fill(scale == 0, 1)


def _num_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
