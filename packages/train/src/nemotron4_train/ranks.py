"""This process's place among the ranks of a run, and agreement between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

_T = TypeVar("_T")


def rank() -> int:
    """This process's rank; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_all_ranks(work: Callable[[], _T], group: dist.ProcessGroup | None = None) -> list[_T]:
    """What `work` returned on every rank of the group, by rank; an error on any rank is raised on all of them."""
    outcome: _T | Exception
    try:
        outcome = work()
    except Exception as error:  # raised below, on all ranks
        outcome = error
    outcomes: list[Any] = [outcome]
    if dist.is_initialized():
        outcomes = [None] * dist.get_world_size(group)
        dist.all_gather_object(outcomes, outcome, group=group)
    for found in outcomes:
        if isinstance(found, Exception):
            raise found
    return outcomes
