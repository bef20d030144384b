"""Which part of a parameter this rank holds.

Invariant: the answer is what torch's own sharding does to a tensor of indices, so it holds for any placements.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard


def local_indices(parameter: Tensor) -> list[Tensor]:
    """For each dimension, the indices into the whole parameter of what this rank holds, on the CPU, in its order."""
    return [_along(parameter, dimension) for dimension in range(parameter.dim())]


def _along(parameter: Tensor, dimension: int) -> Tensor:
    if not isinstance(parameter, DTensor):
        return torch.arange(parameter.shape[dimension])
    placements = [_first_dimension(placement, dimension) for placement in parameter.placements]
    indices = torch.arange(parameter.shape[dimension], device=parameter.to_local().device)
    # src_data_rank=None: every rank has the same indices, so nothing is sent.
    spread = distribute_tensor(indices, parameter.device_mesh, placements, src_data_rank=None)
    return spread.to_local().cpu()


def _first_dimension(placement: object, dimension: int) -> Shard | Replicate | _StridedShard:
    """The placement along `dimension`, for a tensor that has only that one."""
    if isinstance(placement, _StridedShard) and placement.dim == dimension:
        return _StridedShard(0, split_factor=placement.split_factor)
    if isinstance(placement, Shard) and placement.dim == dimension:
        return Shard(0)
    return Replicate()
