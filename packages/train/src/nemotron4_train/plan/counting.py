"""Counts what operations on tensors allocate and what they send: the live bytes of a process, and its collectives.

Invariant: a fake step and the real step that it stands for are counted by the same code. A storage counts once,
whatever shares it, from the operation that makes it until the last tensor that uses it is gone.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils._pytree import tree_leaves

from nemotron4_train.plan.fake import group_name, resizing, shape_propagation

_KINDS = ("reduce_scatter", "all_gather", "all_reduce", "all_to_all", "broadcast")


class StepCounter(TorchDispatchMode):
    """While it is entered, follows storages that operations make; `restart` begins a count."""

    def __init__(self, mesh: DeviceMesh | None, *, is_fake: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._axes = {} if mesh is None else _axis_of_groups(mesh)
        self._is_fake = is_fake
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        self._in_propagation = 0
        self._around = ExitStack()
        self._at: tuple[int, Callable[[], None]] | None = None
        self.bytes = 0
        """Of live tensors."""
        self.restart()

    def restart(self, at: tuple[int, Callable[[], None]] | None = None) -> None:
        """Begin a count; `at` is the number of an allocation, and what is called right after it."""
        self._allocations, self._at = 0, at
        self.peak_bytes, self.peak_allocation = self.bytes, 0
        self.collectives: Counter[tuple[str, str, str]] = Counter()
        """By (kind, axis, "calls" or "bytes")."""

    def live(self) -> Iterator[tuple[int, int]]:
        """(identity, bytes) of live storages."""
        return ((identity, size) for identity, (_, size) in self._live.items())

    def __enter__(self) -> StepCounter:
        self._around.enter_context(shape_propagation(self._enter_propagation, self._exit_propagation))
        self._around.enter_context(resizing(self._hold))
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # torch's
        self._around.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a DTensor's operation: what it does on local tensors comes here too
        kwargs = kwargs or {}
        if self._is_fake and "wait_tensor" in func._schema.name:
            return args[0].detach()  # the real one returns its input; fake tensors make another of its size
        result = func(*args, **kwargs)
        if not self._in_propagation:
            self._count_collective(func, args, kwargs, result)
            for tensor in _tensors(result):
                if tensor.device.type != "meta" and hasattr(tensor, "fake_mode") == self._is_fake:
                    self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Follow a storage, or one whose size has changed."""
        identity, size = id(storage), storage.nbytes()
        known = self._live.get(identity)
        before = 0 if known is None else known[1]
        if known is not None and before == size:
            return
        reference = known[0] if known else weakref.ref(storage, lambda _: self._drop(identity))
        self._live[identity] = reference, size
        self.bytes += size - before
        if size < before:
            return
        self._allocations += 1
        if self.bytes > self.peak_bytes:
            self.peak_bytes, self.peak_allocation = self.bytes, self._allocations
        if self._at is not None and self._at[0] == self._allocations:
            self._at[1]()

    def _drop(self, identity: int) -> None:
        self.bytes -= self._live.pop(identity)[1]

    def _enter_propagation(self) -> None:
        self._in_propagation += 1

    def _exit_propagation(self) -> None:
        self._in_propagation -= 1

    def _count_collective(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        namespace, _, name = func._schema.name.partition("::")
        if "c10d" not in namespace:
            return
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        group = next((given[key] for key in ("process_group", "group_name", "group") if key in given), None)
        if group is None:  # waits for a collective, or wraps one
            return
        plain = name.replace("_", "")
        kind = next((kind for kind in _KINDS if kind.replace("_", "") in plain), name)
        axis = self._axes.get(group_name(group), "other")
        self.collectives[kind, axis, "calls"] += 1
        self.collectives[kind, axis, "bytes"] += max(_bytes(value) for value in (*given.values(), result))


def _axis_of_groups(mesh: DeviceMesh) -> dict[str, str]:
    assert mesh.mesh_dim_names is not None
    of_axes = {group_name(mesh.get_group(axis)): axis for axis in mesh.mesh_dim_names}
    assert dist.group.WORLD is not None
    return {group_name(dist.group.WORLD): "all"} | of_axes  # one axis may be all ranks


def _tensors(value: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _bytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in _tensors(value))
