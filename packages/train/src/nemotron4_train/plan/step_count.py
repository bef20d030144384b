"""What a dry run finds: the memory and the collectives of one rank in one optimiser step, by kind."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("parameters", "gradients", "optimizer", "gathered", "activations")
"""Of memory: this rank's weights and the rotary tables; gradients, reduced or not; the optimiser's state; weights that
FSDP has gathered; and all else: what backward needs, and temporaries."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """What one rank sends of a kind, over one axis of the mesh, in a step."""

    kind: str
    """all_gather, reduce_scatter, all_reduce, broadcast, ..."""
    axis: str
    """replicate, shard or tensor; all, of every rank; other, of a group that is no axis."""
    count: int
    bytes: int
    """Of the larger of what goes in and what comes out, summed: not bytes on the wire."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """One optimiser step of rank 0."""

    memory_bytes: dict[str, int]
    """Live tensors at the peak, by kind (KINDS): without the allocator, NCCL and the context."""
    resting_bytes: dict[str, int]
    """The same between steps."""
    peak_bytes: int
    """The sum of memory_bytes."""
    collectives: tuple[Collective, ...]
    """In the order of kind and axis."""
    num_micro_batches: int
    seconds: float
    """That the dry run took."""
