"""torch's internals that a dry run needs, and nothing else of ours: fake ranks, fake tensors, what FSDP holds.

None of it is a public interface: what is imported is looked for, and its absence is a ValueError. Tested with torch
2.11 and 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def start_fake_ranks(num_ranks: int) -> None:
    """Make this process rank 0 of a process group that sends nothing, until it ends."""
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as error:
        raise _missing("fake process group") from error
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)


def fake_tensors() -> Any:
    """A mode in which new tensors have shapes but no values, and tensors on the meta device may be used."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise _missing("fake tensors") from error
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def shape_propagation(on_enter: Any, on_exit: Any) -> Iterator[None]:
    """Call the functions around DTensor's propagation of shapes, which runs each operation on whole, fake tensors."""
    try:
        from torch.distributed.tensor._sharding_prop import ShardingPropagator

        original = ShardingPropagator._propagate_tensor_meta_non_cached
    except (ImportError, AttributeError) as error:
        raise _missing("propagation of DTensor's shapes") from error

    def propagate(*args: Any, **kwargs: Any) -> Any:
        on_enter()
        try:
            return original(*args, **kwargs)
        finally:
            on_exit()

    ShardingPropagator._propagate_tensor_meta_non_cached = propagate  # type: ignore[method-assign]  # for a while
    try:
        yield
    finally:
        ShardingPropagator._propagate_tensor_meta_non_cached = original  # type: ignore[method-assign]  # as it was


@contextmanager
def resizing(on_resize: Any) -> Iterator[None]:
    """Call the function with each storage that was resized: FSDP frees and allocates gathered weights so."""
    original = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, size: int) -> Any:
        result = original(storage, size)
        on_resize(storage)
        return result

    torch.UntypedStorage.resize_ = resize_  # type: ignore[assignment,method-assign]  # for a while
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]  # as it was


def fsdp_tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that FSDP has gathered, and gradients that it keeps until they are reduced, or summed over replicas."""
    gathered: list[Tensor] = []
    groups = list(_fsdp_groups(model))
    gradients = [group._partial_reduce_output for group in groups if group._partial_reduce_output is not None]
    for parameter in (parameter for group in groups for parameter in group.fsdp_params):
        whole: Tensor | None = getattr(parameter, "_unsharded_param", None)
        gathered += [*parameter.all_gather_outputs, *([] if whole is None else [whole])]
        kept = parameter.unsharded_accumulated_grad, None if whole is None else whole.grad
        gradients += [gradient for gradient in kept if gradient is not None]
    return gathered, gradients


def _fsdp_groups(model: nn.Module) -> Iterator[Any]:
    modules: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        state = module._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None)  # since 2.12; one before
        yield from filter(None, [state._fsdp_param_group] if groups is None else groups)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor  # without an operation


def group_name(group: Any) -> str:
    """The name of a process group as operators are given it."""
    if isinstance(group, str):
        return group
    if not isinstance(group, dist.ProcessGroup):
        group = dist.ProcessGroup.unbox(group)
    return str(group.group_name)


def _missing(what: str) -> ValueError:
    return ValueError(
        f"plan.dry_run (true): torch {torch.__version__} has no {what} where torch 2.11 to 2.13 have it;"
        " leave plan.dry_run out, or use one of those"
    )
