"""Whether a row's product has the same bits however many rows are multiplied with it, and what makes it so.

Libraries choose their kernels, and so the order of sums, by the number of rows. If rows are padded to a multiple, and
in some formats no more than a few dozen are multiplied at once, all numbers that occur get kernels that agree. Which
these are is a matter of library, processor, shape and threads, so it is tried at load.

Prompts are multiplied apart from single tokens where that is faster: with matrix units, and with weights that are worth
making bf16 for many rows at once. Their rows are padded to whole tiles.

Shapes: N rows, D input features, F output features.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nemotron4_infer.weights.engine_weights import EngineWeights
from nemotron4_infer.weights.linear import LinearOperator
from nemotron4_infer.weights.quantised import tile_operator

_MULTIPLES = (4, 8, 16, 32)
_BLOCK_ROWS = 32
"""Processors with matrix units (AMX) round bf16 differently in them, where oneDNN takes more rows than this."""
TILE_ROWS = 64
"""Rows of prompts that are multiplied apart are padded to a multiple of this."""
_TRIALS = {torch.float32: 1 << 12}
"""Results to compare for each number of rows; narrower formats need more, since rounding hides most differences."""


class Blocked:
    """A linear layer that multiplies at most `block_rows` rows at once."""

    def __init__(self, linear: LinearOperator, block_rows: int) -> None:
        self.linear, self.block_rows = linear, block_rows
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.row_multiple, self.least_rows, self.num_bytes = linear.row_multiple, linear.least_rows, linear.num_bytes

    def __call__(self, x_ND: Tensor) -> Tensor:
        """x_ND to y_NF in the dtype of x."""
        if len(x_ND) <= self.block_rows:
            return self.linear(x_ND)
        return torch.cat([self.linear(block) for block in x_ND.split(self.block_rows)])


def with_equal_bits(weights: EngineWeights, max_rows: int) -> tuple[EngineWeights, int, bool]:
    """The weights, whose linear layers may multiply in blocks; the multiple to pad rows to; and whether rows then had
    equal bits in each of some counts up to max_rows. If not, the weights are as they were."""
    kinds = {_kind(each): each for each in weights.linears}
    named, found = max(each.row_multiple for each in kinds.values()), {}
    multiples = (named, *(m for m in _MULTIPLES if m > named))
    for kind, linear in kinds.items():
        ways = [(way, multiple) for multiple in multiples for way in (linear, Blocked(linear, _BLOCK_ROWS))]
        way = next((way for way in ways if has_equal_bits(way[0], way[1], max_rows, weights.dtype)), None)
        if way is None:
            return weights, named, False
        found[kind] = way
    multiple = max(multiple for _, multiple in found.values())

    def blocked(linear: LinearOperator) -> LinearOperator:
        return Blocked(linear, _BLOCK_ROWS) if isinstance(found[_kind(linear)][0], Blocked) else linear

    return _with_linears(weights, blocked), multiple, True


def for_tiles(weights: EngineWeights, max_rows: int) -> EngineWeights | None:
    """For weights that `with_equal_bits` returned: those to multiply rows of prompts with, apart from other rows and in
    multiples of TILE_ROWS up to max_rows, with equal bits; None if they would be no faster. The head stays."""
    ways: dict[tuple[type, int, int], Callable[[LinearOperator], LinearOperator]] = {}

    def way(linear: LinearOperator) -> LinearOperator:
        made = linear.linear if isinstance(linear, Blocked) else tile_operator(linear)
        kind = _kind(linear)
        if kind not in ways:
            holds = has_equal_bits(made, TILE_ROWS, max_rows, weights.dtype)
            ways[kind] = (lambda each: each) if holds else lambda each: Blocked(each, TILE_ROWS)
        return ways[kind](made)

    if not any(isinstance(each, Blocked) or tile_operator(each) is not each for each in weights.linears):
        return None
    return replace(_with_linears(weights, way), head=weights.head)


@torch.inference_mode()
def has_equal_bits(linear: LinearOperator, multiple: int, max_rows: int, dtype: torch.dtype) -> bool:
    """Whether rows come out alike together and in groups of a few multiples of rows, up to about max_rows."""
    most, F, trials = -(-max_rows // multiple) * multiple, linear.out_features, _TRIALS.get(dtype, 1 << 15)
    counts = {-(-n // multiple) * multiple for n in (1, 3 * multiple, 5 * multiple, 8, 16, 32, 36, 40, 48, 72, 100)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(max(1, min(16, trials // (most * F)))):
        x_ND = torch.randn(most, linear.in_features, generator=generator).to(dtype)
        y_NF = linear(x_ND)
        for n in sorted(n for n in counts if n < most):
            last = min(most - n, trials // F)
            if any(not torch.equal(linear(x_ND[i : i + n]), y_NF[i : i + n]) for i in range(0, last + 1, n)):
                return False
    return True


def _with_linears(weights: EngineWeights, way: Callable[[LinearOperator], LinearOperator]) -> EngineWeights:
    blocks = [replace(b, qkv=way(b.qkv), out=way(b.out), up=way(b.up), down=way(b.down)) for b in weights.blocks]
    return replace(weights, blocks=blocks, head=way(weights.head))


def _kind(linear: LinearOperator) -> tuple[type, int, int]:
    return type(linear), linear.in_features, linear.out_features
