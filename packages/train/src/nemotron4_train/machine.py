"""Machines as data: what one device of a kind computes, holds and moves. Files of conf/machine.

Invariant: rates are published peaks in one direction, without sparsity; what is reached of them is the planner's.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from nemotron4_common.rules import require

_MACHINES = Path(__file__).parent / "machines"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One kind of device, and the node it is in."""

    name: str
    cuda_names: tuple[str, ...]
    """What CUDA calls a whole device of this kind; a slice of one has another name."""
    peak_teraflops: dict[str, float]
    """Dense peak by number format: fp32, bf16, fp8 where it has them."""
    memory_gigabytes: float
    """Memory of one device, in 1e9 bytes."""
    memory_gigabytes_per_second: float
    devices_per_node: int
    node_link_gigabytes_per_second: float
    """One device to the others of its node."""
    network_gigabytes_per_second: float
    """One device's share of its node's network adapters."""
    multiprocessors: int
    """Units that the tiles of a matrix product are spread over."""


def machine_names() -> list[str]:
    """The files of conf/machine, sorted."""
    return sorted(path.stem for path in _MACHINES.glob("*.yaml"))


@cache
def load_machine(name: str, key: str = "topology.machine") -> Machine:
    """A machine by the name of its file; ValueError, for the dotted `key`, gives the nearest names."""
    known = machine_names()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
    require(name in known, key, name, f"is no file of conf/machine; nearest: {', '.join(near)}")
    content = yaml.safe_load((_MACHINES / f"{name}.yaml").read_text(encoding="utf-8"))
    return Machine(name=name, **content | {"cuda_names": tuple(content["cuda_names"])})


def machine_of(cuda_name: str) -> Machine | None:
    """The machine whose whole device CUDA calls this; None for a slice of one and for what is not known."""
    machines = (load_machine(name) for name in machine_names())
    return next((machine for machine in machines if cuda_name in machine.cuda_names), None)
