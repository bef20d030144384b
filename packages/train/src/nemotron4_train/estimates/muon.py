"""What Muon adds to the time of a step: its iterations, and the traffic of whole matrices.

Each rank iterates on one whole matrix at a time, of as many as there are ranks, which it gathers and then sends to all
others (optimizers.py); nothing runs beside it. Invariant: more ranks never iterate for longer.
Source: five Newton-Schulz iterations of three products each, arXiv 2502.16982 section 2.
"""

from __future__ import annotations

from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.collectives import Group
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.estimates.reached import Reached, peak_flops_per_second
from nemotron4_train.job import Precision
from nemotron4_train.machine import Machine
from nemotron4_train.topology import Device

_ITERATIONS = 5


def muon_seconds(model: ModelConfig, layout: Layout, machine: Machine, reached: Reached) -> float:
    """Beside what a step of AdamW takes."""
    hidden, inner, query = model.hidden_size, model.intermediate_size, model.query_width
    shapes = [(query + 2 * model.key_value_width, hidden), (hidden, query), (inner, hidden), (hidden, inner)]
    flops = [_flops(*shape) for shape in shapes * model.num_layers]
    ranks = layout.num_devices
    slowest = sum(max(flops[first : first + ranks]) for first in range(0, len(flops), ranks))
    precision = Precision.fp32 if layout.device is Device.cpu else Precision.bf16
    iterating = slowest / (peak_flops_per_second(machine, precision) * reached.products)
    num_bytes = precision.dtype.num_bytes * sum(rows * columns for rows, columns in shapes)
    gathered, sent = (
        Group(num_ranks=number, devices_per_node=layout.devices_per_node, machine=machine)
        for number in (layout.shard * layout.tensor, ranks)
    )
    return iterating + model.num_layers * (gathered.gather_seconds(num_bytes) + sent.gather_seconds(num_bytes))


def _flops(rows: int, columns: int) -> int:
    """Of a matrix: its square of the shorter side, that one's square, and the product of their sum with it."""
    short, long = sorted((rows, columns))
    return _ITERATIONS * (4 * short**2 * long + 2 * short**3)
