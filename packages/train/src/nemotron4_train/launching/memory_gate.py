"""The gate before Slurm: a leg whose predicted memory is more than a GPU of topology.machine has is not submitted.

What is predicted is the whole peak with its allowance (estimates/memory.py), so a refused leg might just fit, and
launcher.force=true submits it. A worker, which sees its real GPU, refuses by a lower bound (gpu_limits.py), which no
key overrides. Legs on CPUs, whose memory Slurm divides, and legs of no known machine pass unchecked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from itertools import combinations, product
from typing import Any

from nemotron4_model.config import Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import KINDS, Memory, memory
from nemotron4_train.job import TrainJob
from nemotron4_train.launching.legs import Leg, legs
from nemotron4_train.machine import load_machine
from nemotron4_train.topology import Device

_REDUCE = "precision.reduce"


def check_fits(job: TrainJob) -> None:
    """Raise ValueError for the first leg that does not fit, or with launcher.force print a warning for each."""
    for leg in legs(job):
        found = shortage(job, leg)
        if found is None:
            continue
        if not job.launcher.force:
            raise ValueError(f"{found}, or submit it nevertheless with launcher.force=true")
        print(f"warning: {found}; going on, because of launcher.force=true", file=sys.stderr)


def shortage(job: TrainJob, leg: Leg) -> str | None:
    """What a leg needs of each GPU and what there is, in one line with the ways out; None if it fits or is unchecked.

    Raises ValueError when the leg's machine cannot be loaded.
    """
    topology = leg.topology
    if topology.machine is None or topology.device is Device.cpu:
        return None
    machine, needed = load_machine(topology.machine), leg_memory(job, leg)
    if needed.total <= machine.memory_bytes:
        return None
    is_own = job.schedule.phases[leg.phases[0]].topology is not None
    where = f"schedule.phases.{leg.phases[0]}.topology" if is_own else "topology"
    ways = _ways_out(job, leg, machine.memory_bytes)
    key = next(iter(ways[0][0])) if ways else "shard"
    value = job.precision.reduce if key == _REDUCE else getattr(topology, key)
    shown = ", ".join(f"{size / 1e9:,.1f} for {kind}" for kind in KINDS if (size := getattr(needed, kind)))
    offers = [f"{_overrides(change, where)} ({total / 1e9:,.1f} GB)" for change, total in ways]
    return (
        f"{_dotted(key, where)} ({_typed(value)}): leg {leg.name} needs {needed.total / 1e9:,.1f} GB on each GPU"
        f" ({shown}), and {machine.name} has {machine.memory_bytes / 1e9:,.1f};"
        f" make it fit by {', or '.join([*offers, 'another topology=OPTION of more GPUs'])}"
    )


def leg_memory(job: TrainJob, leg: Leg, change: Mapping[str, Any] | None = None) -> Memory:
    """The memory of a rank in the phase of a leg that needs most.

    `change` maps keys of the topology, and precision.reduce, to values that they are given first.
    """
    changed = dict(change or {})
    if _REDUCE in changed:
        job = replace(job, precision=replace(job.precision, reduce=changed.pop(_REDUCE)))
    topology = replace(leg.topology, **changed)
    phases = [job.schedule.phases[name] for name in leg.phases]
    each = [memory(job.model, layout_of(job, phase, topology), job.optimizer.kind) for phase in phases]
    return max(each, key=lambda needed: needed.total)


def _ways_out(job: TrainJob, leg: Leg, num_bytes: int) -> list[tuple[dict[str, Any], int]]:
    """Changes of as few keys as possible that make the leg fit, the least of each key or keys; and the bytes then."""
    topology = leg.topology
    shares = [job.schedule.phases[name].global_batch_size // topology.num_data_ranks for name in leg.phases]
    sizes = [size for size in range(1, max(shares) + 1) if all(n % min(size, n) == 0 for n in shares)]
    # A larger micro-batch needs less where it ends the accumulation of gradients that are not sharded yet.
    nearest = sorted(sizes, key=lambda size: (size > topology.micro_batch_size, abs(size - topology.micro_batch_size)))
    options: dict[str, list[Any]] = {
        "micro_batch_size": [size for size in nearest if size != topology.micro_batch_size],
        "recompute": list(Recompute)[list(Recompute).index(topology.recompute) + 1 :],
        "reshard_after_forward": [] if topology.reshard_after_forward or topology.shard == 1 else [True],
        "reduce_each_micro_batch": [] if topology.reduce_each_micro_batch or topology.shard == 1 else [True],
        _REDUCE: [DType.bf16] if job.precision.reduce is DType.fp32 else [],
    }
    for number in range(1, len(options) + 1):
        found = []
        for keys in combinations(options, number):
            changes = (dict(zip(keys, values, strict=True)) for values in product(*(options[key] for key in keys)))
            totals = ((change, leg_memory(job, leg, change).total) for change in changes)
            found += [next((way for way in totals if way[1] <= num_bytes), None)]
        if ways := [way for way in found if way is not None]:
            return ways
    return []


def _dotted(key: str, where: str) -> str:
    return key if key == _REDUCE else f"{where}.{key}"


def _overrides(change: Mapping[str, Any], where: str) -> str:
    return " ".join(f"{_dotted(key, where)}={_typed(value)}" for key, value in change.items())


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    return str(value.value if isinstance(value, Enum) else value).lower()
