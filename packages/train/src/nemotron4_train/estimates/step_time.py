"""The time of an optimiser step, predicted from the model's shape, the layout and the machine, in seconds by part.

Computation is that of micro_batch.py, once for each micro-batch; data parallelism is what data_parallel.py leaves bare.
Invariant: no part depends on anything but its arguments. With the other arguments given, a machine with faster rates
never predicts a slower step; and at equal work for each device, more devices never predict more than linear
throughput, but for the optimiser's part, which shards divide.
Source: pipeline bubble, arXiv 2104.04473 section 2.2. What is fitted on published steps is in reached.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.data_parallel import DataParallel
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.estimates.micro_batch import MicroBatch
from nemotron4_train.estimates.muon import muon_seconds
from nemotron4_train.estimates.reached import Reached, peak_flops_per_second
from nemotron4_train.estimates.stack import Stack, usual_stack
from nemotron4_train.job import OptimizerKind, Precision
from nemotron4_train.machine import Machine


@dataclass(frozen=True)
class StepTime:
    """A step's seconds by part, in the order in which they are drawn."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """All parts."""
        return sum(self.seconds.values())


def step_time(
    model: ModelConfig,
    layout: Layout,
    machine: Machine,
    reached: Reached = Reached(),  # noqa: B008 (frozen)
    stack: Stack | None = None,
    optimizer: OptimizerKind = OptimizerKind.adamw,
) -> StepTime:
    """Predict a step of training, by the program (`stack`) that the layout's sharding implies, or another.

    ValueError, with the key precision.compute, where the machine does not compute in the layout's format.
    """
    micro = MicroBatch(model, layout, machine, reached, stack or usual_stack(layout))
    data = DataParallel(model, layout, machine, reached)
    forward, backward = micro.seconds()
    of_forward, of_backward = sum(forward.values()), sum(backward.values())
    parts = {name: (forward[name] + backward[name]) * layout.num_micro_batches for name in forward}
    parts["element-wise"] += data.copy_seconds()
    of_blocks = of_forward + of_backward - micro.head_seconds()
    parts["pipeline bubble"] = (layout.pipeline - 1) / layout.virtual_stages * of_blocks
    # The parts of a stage take turns on groups of as many micro-batches as there are stages, so that a group's
    # computation is beside the first gathers, and beside the last reductions.
    windows = layout.pipeline * of_forward, layout.pipeline * of_backward
    parts["data communication"] = data.communication_seconds(*windows)
    parts["optimizer"] = data.optimizer_seconds()
    if optimizer is OptimizerKind.muon:
        parts["optimizer"] += muon_seconds(model, layout, machine, reached)
    parts["fixed"] = reached.fixed_seconds
    parts["scale"] = sum(parts.values()) * reached.per_doubling * math.log2(layout.num_nodes)
    return StepTime(parts)


def mfu(
    model: ModelConfig, layout: Layout, machine: Machine, seconds: float, peak_teraflops: float | None = None
) -> float:
    """The model's FLOP/s in a step of so many seconds, full attention, over the bf16 peak of all devices.

    `peak_teraflops` is a device's, if not the machine's.
    """
    peak = peak_flops_per_second(machine, Precision.bf16) if peak_teraflops is None else peak_teraflops * 1e12
    flops = model.flops_per_token(layout.sequence_length) * layout.tokens_per_step
    return flops / (seconds * layout.num_devices * peak)
