"""The one ordered recipe that makes a plain Transformer parallel.

float8 -> tensor -> recompute -> compile -> fully_shard, each only if asked for.

Invariant: losses, gradients and initial weights equal those of the unsharded model up to the order of fp32 sums; losses
and gradients in bf16, up to rounding.
The order matters: fully_shard or a checkpoint wrapper before the tensor plan silently loses the plan.
Source: FSDP2 (PyTorch's `fully_shard`; the idea is in arXiv 2304.11277), hybrid sharding (section 3.2 there), tensor
and sequence parallelism (Megatron-LM, arXiv 1909.08053 section 3 and arXiv 2205.05198 section 4).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from nemotron4_model.config import Recompute
from nemotron4_model.parallel.float8 import convert_blocks
from nemotron4_model.parallel.recompute import recomputed
from nemotron4_model.parallel.tensor import apply_tensor_parallel, check_tensor_parallel
from nemotron4_model.transformer import Block, Transformer

MESH_AXES = ("replicate", "shard", "tensor")

_use_compiled = True


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

    `mesh` has the axes ("replicate", "shard", "tensor"), each of any size from 1; None means one device, where only
    float8, recompute and compile apply. Parameters are stored in their own dtype; products compute in `param_dtype`
    (None: as stored) and gradients are reduced in `reduce_dtype` (None: as computed). `float8` applies to the products
    of the blocks. `reshard_after_forward=False` keeps what forward gathered for backward: less traffic, more memory.
    On a mesh, take gradients of the loss, not of logits. Raises ValueError when the model cannot be split as asked, or
    float8 cannot be computed.
    """
    tensor_size = 1 if mesh is None else _size(mesh, "tensor")
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


def begin_micro_batch(model: Transformer, *, is_last: bool, reshard: bool, reduce: bool = False) -> None:
    """Before the forward pass of each micro-batch of a step: reduce gradients after the last one's backward.

    With `reduce`, they are scattered over the shards after this one's too, and summed as shards: in the parameters'
    dtype, or, where replicas wait for the last to sum theirs, in `reduce_dtype`. Unless `reshard`, gathered weights
    last until the last one's backward. No effect on a model without a mesh.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last or reduce)
        model.set_requires_all_reduce(is_last)
        model.set_reshard_after_backward(is_last or reshard)


def _wrap_forward(block: Block, recompute: Recompute, compile_block: bool) -> None:
    """Replace only the forward method: parameter names stay, and FSDP's hooks remain outside the compiled graph."""
    forward = recomputed(block.forward, recompute)
    block.forward = _compiled(forward, block.forward) if compile_block else forward  # type: ignore[method-assign]  # wrapped


def _compiled(forward: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`forward`, compiled once for each shape in training; `plain` where no gradients are taken.

    A schedule has few shapes, and each is worth its own graph; validation has a new shape in every batch.
    """
    # torch limits recompilation (8 per function, 256 in all) to catch unexpected shapes; ours are all expected.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = sys.maxsize
    compiled = torch.compile(forward, fullgraph=True, dynamic=False)
    uncompiled = recomputed(plain, Recompute.full)

    def choose(x_BTD: Tensor, *others: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(x_BTD, *others)
        # torch 2.13 compiles for the tensor inside of an AsyncCollectiveTensor, which requires no gradient, so that
        # whatever produced it gets none (a row-wise parallel embedding: zero, and no error). A copy is a plain tensor
        # and keeps the gradient. Inside the graph every collective is waited for.
        if isinstance(x_BTD, AsyncCollectiveTensor):
            x_BTD = x_BTD.clone()
        return (compiled if _use_compiled else uncompiled)(x_BTD, *others)

    return choose


@contextmanager
def blocks_uncompiled() -> Iterator[None]:
    """Inside, blocks of every model run uncompiled, recomputed whole so that they need less memory than compiled."""
    global _use_compiled
    _use_compiled = False
    try:
        yield
    finally:
        _use_compiled = True


def _shard(model: Transformer, mesh: DeviceMesh, policy: MixedPrecisionPolicy, reshard: bool) -> None:
    axes = mesh["replicate", "shard"] if _size(mesh, "replicate") > 1 else mesh["shard"]
    for module in (model.embedding, *model.blocks, model.head):
        fully_shard(module, mesh=axes, mp_policy=policy, reshard_after_forward=reshard)
    for module in (model.embedding, model.head):
        # Backward reads neither: a lookup's needs only the tokens, and the loss took its gradients in forward.
        cast("FSDPModule", module).set_unshard_in_backward(False)
    # Backward starts with the final norm, so gathering it again right after forward would be wasteful.
    fully_shard(model, mesh=axes, mp_policy=policy, reshard_after_forward=False)


def _size(mesh: DeviceMesh, axis: str) -> int:
    assert mesh.mesh_dim_names == MESH_AXES, f"mesh axes ({mesh.mesh_dim_names}): must be {MESH_AXES}"
    return mesh.size(MESH_AXES.index(axis))
