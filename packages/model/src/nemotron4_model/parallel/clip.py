"""The norm of all gradients, and clipping by it, whatever mesh each parameter is on.

Invariant: every element of the full gradient counts once, so the norm equals that of the unsharded model.
(torch's clip_grad_norm_ does not accept parameters on different meshes, or mixtures of tensors and DTensors.)
Source: clipping by global norm, arXiv 1211.5063 section 3.2.
"""

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def global_grad_norm_and_clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale all gradients so that their global L2 norm is at most `max_norm` (None: measure only).

    Returns the norm before clipping: a 0-dimensional fp32 tensor, equal on all ranks. Collective on every mesh.
    A norm that is not finite leaves the gradients as they are, for inspection.
    """
    local_grads: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.grad is not None:
            key, grad = _split_axes_and_local(parameter.grad)
            local_grads[key].append(grad)
    if not local_grads:
        return torch.zeros(())
    squares = [_sum_of_squares(key, grads) for key, grads in local_grads.items()]
    norm = torch.stack(squares).sum().sqrt()
    if max_norm is not None:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0).where(norm.isfinite(), 1.0)
        for grads in local_grads.values():
            torch._foreach_mul_(grads, scale)
    return norm


def grad_norms(model: nn.Module) -> dict[str, float]:
    """L2 norm of each parameter's gradient, by name. Collective on every mesh, and slow: it sums them one by one."""
    return {
        name: float(_sum_of_squares(key, [grad]).sqrt())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
        for key, grad in [_split_axes_and_local(parameter.grad)]
    }


def _split_axes_and_local(grad: Tensor) -> tuple[Any, Tensor]:
    """The mesh and the axes that this gradient is split over, and the part held here."""
    if not isinstance(grad, DTensor):
        return None, grad
    assert not any(placement.is_partial() for placement in grad.placements), "gradients must be reduced before clipping"
    axes = tuple(axis for axis, placement in enumerate(grad.placements) if not placement.is_replicate())
    return (grad.device_mesh, axes), grad.to_local()


def _sum_of_squares(key: Any, grads: list[Tensor]) -> Tensor:
    total = torch.stack(torch._foreach_norm(grads, dtype=torch.float32)).square().sum()
    if key is not None:
        mesh, axes = key
        for axis in axes:
            if mesh.size(axis) > 1:
                dist.all_reduce(total, group=mesh.get_group(axis))
    return total
