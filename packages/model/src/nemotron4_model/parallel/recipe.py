"""The one ordered recipe that makes a plain Transformer parallel.

float8 -> tensor -> recompute -> compile -> fully_shard, each where it is asked for.

Invariant: losses, gradients and initial weights equal those of the unsharded model up to the order of fp32 sums.
The order is not free: fully_shard before the tensor plan, or a checkpoint wrapper before it, silently loses the plan.
Source: FSDP2 (PyTorch's `fully_shard`, arXiv 2304.11277 for the idea), hybrid sharding (section 3.2 there), tensor and
sequence parallelism (Megatron-LM, arXiv 1909.08053 section 3 and arXiv 2205.05198 section 4).
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from nemotron4_model.config import Recompute
from nemotron4_model.parallel.float8 import convert_blocks
from nemotron4_model.parallel.recompute import recomputed
from nemotron4_model.parallel.tensor import apply_tensor_parallel, check_tensor_parallel
from nemotron4_model.transformer import Block, Transformer

MESH_AXES = ("replicate", "shard", "tensor")


def parallelise(
    model: Transformer,
    mesh: DeviceMesh | None,
    *,
    recompute: Recompute = Recompute.none,
    compile: bool = False,  # noqa: A002 (as in topology.compile)
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = None,
    float8: bool = False,
    reshard_after_forward: bool = True,
) -> None:
    """Change `model` in place. Pass it on the meta device, then call `to_empty(device=...)` and `initialise`.

    `mesh` has the axes ("replicate", "shard", "tensor"), each of any size from 1; None is one device, where only
    float8, recompute and compile apply. Parameters are stored in their own dtype, computed with in `param_dtype` and
    their gradients reduced in `reduce_dtype` (None: as stored, as computed). `float8` is for the products of the
    blocks. `reshard_after_forward=False` keeps gathered blocks for backward: less traffic, more memory. Raises
    ValueError when the model cannot be split as asked, or float8 not be computed.
    """
    tensor_size = 1 if mesh is None else _size(mesh, "tensor")
    if compile and tensor_size > 1:
        raise ValueError(
            f"compile (true) cannot be combined with topology.tensor ({tensor_size}): torch.compile over tensor "
            "parallelism gave silently wrong gradients; set compile to false or topology.tensor to 1"
        )
    check_tensor_parallel(model.config, tensor_size)
    if float8:
        convert_blocks(model)
    if mesh is not None and tensor_size > 1:
        apply_tensor_parallel(model, mesh["tensor"])
    for block in model.blocks:
        assert isinstance(block, Block)
        _wrap_forward(block, recompute, compile)
    if mesh is not None:
        policy = MixedPrecisionPolicy(param_dtype, reduce_dtype, cast_forward_inputs=False)  # keep rotary tables fp32
        _shard(model, mesh, policy, reshard_after_forward)


def _wrap_forward(block: Block, recompute: Recompute, compile_block: bool) -> None:
    """Replace the forward method alone: parameter names stay, and FSDP's hooks stay outside the compiled graph."""
    forward = recomputed(block.forward, recompute)
    block.forward = _compiled(forward, block.forward) if compile_block else forward  # type: ignore[method-assign]  # wrapped


def _compiled(forward: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`forward` compiled once for each shape that trains, and `plain` where no gradients are taken.

    A schedule has few shapes, of which each is worth a graph of its own; validation has a new one in each batch.
    """
    # torch's limits (8 for a function, 256 in all) are for shapes that nobody foresaw.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = sys.maxsize
    compiled = torch.compile(forward, fullgraph=True, dynamic=False)

    def choose(*arguments: Any) -> Tensor:
        return compiled(*arguments) if torch.is_grad_enabled() else plain(*arguments)

    return choose


def _shard(model: Transformer, mesh: DeviceMesh, policy: MixedPrecisionPolicy, reshard: bool) -> None:
    axes = mesh["replicate", "shard"] if _size(mesh, "replicate") > 1 else mesh["shard"]
    fully_shard(model.embedding, mesh=axes, mp_policy=policy, reshard_after_forward=reshard)
    for block in model.blocks:
        fully_shard(block, mesh=axes, mp_policy=policy, reshard_after_forward=reshard)
    # Backward starts with the head: gathering it again right after forward would be waste.
    fully_shard(model.head, mesh=axes, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=axes, mp_policy=policy, reshard_after_forward=False)


def _size(mesh: DeviceMesh, axis: str) -> int:
    assert mesh.mesh_dim_names == MESH_AXES, f"the mesh has axes {mesh.mesh_dim_names}, not {MESH_AXES}"
    return mesh.size(MESH_AXES.index(axis))
