"""The time of an optimiser step, predicted from the model's shape, the layout and the machine, in seconds by part.

A matrix product of M x N x K takes 2MNK / (rate x share of the last wave of tiles x K / (K + K0)); attention has rates
of its own; element-wise work is bytes over memory bandwidth; tensor parallelism moves activations over the links of a
node, and data parallelism gradients and weights over the network, in part behind computation.
Invariant: no part depends on anything but its arguments, and every part is linear in 1 / its rate.
Sources: sequence-parallel traffic, arXiv 2205.05198 section 4; pipeline bubble, arXiv 2104.04473 section 2.2; the
constants of `Reached` are fitted on published steps (fit.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nemotron4_model.config import ModelConfig
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.job import Precision
from nemotron4_train.machine import Machine

_TILE_ROWS, _TILE_COLUMNS = 128, 256


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Shares of published rates that a step reaches."""

    products: float
    """Of the peak of the number format, in large matrix products."""
    fp8_products: float
    """The same in fp8, conversions included."""
    product_depth: float
    """K0: the depth K of a product at which it reaches half of that."""
    attention_forward: float = 0.57
    """Of the bf16 peak, causal FLOPs counted: 566 TFLOP/s of cuDNN on an H100 (flash-attention, pull request 1893)."""
    attention_backward: float = 0.475
    """The same source: 470 TFLOP/s."""
    memory: float = 0.8
    """Of memory bandwidth, in element-wise work."""
    node_link: float = 0.8
    """Of a device's link, in collectives inside a node."""
    network: float = 0.92
    """Of a device's share of the network, in collectives between nodes."""
    tensor_overlap: float
    """Share of tensor-parallel traffic behind computation."""
    data_overlap: float
    """Share of a micro-batch's computation that data-parallel traffic hides behind."""
    per_doubling: float
    """Relative growth of a step for each doubling of nodes: congestion and waiting for the slowest."""
    fixed_seconds: float = 0.02
    """Of each step: launches, the host, the optimiser's synchronisation."""


@dataclass(frozen=True)
class StepTime:
    """A step's seconds by part, in the order in which they are drawn."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """All parts."""
        return sum(self.seconds.values())


def step_time(model: ModelConfig, layout: Layout, machine: Machine, reached: Reached) -> StepTime:
    """Predict a step of training."""
    micro = _micro_batch(model, layout, machine, reached)
    times = layout.num_micro_batches
    parts = {name: seconds * times for name, seconds in micro.items()}
    of_one = sum(micro.values())
    parts["pipeline bubble"] = (layout.pipeline - 1) / layout.virtual_stages * of_one
    parameters = model.num_parameters / layout.tensor / layout.pipeline
    ranks = layout.num_data_ranks
    weight_gathers = 2 * times if layout.reshard_after_forward else 1
    bytes_moved = parameters * (_size(layout.reduce) + 2 * weight_gathers) * (ranks - 1) / ranks
    data = bytes_moved / (machine.network_gigabytes_per_second * 1e9 * reached.network)
    parts["data communication"] = max(data - reached.data_overlap * of_one * weight_gathers, 0.0)
    bandwidth = machine.memory_gigabytes_per_second * 1e9 * reached.memory
    parts["optimizer"] = parameters / ranks * _OPTIMIZER_BYTES / bandwidth
    parts["fixed"] = reached.fixed_seconds
    nodes = layout.num_devices / layout.devices_per_node
    parts["scale"] = sum(parts.values()) * reached.per_doubling * max(math.log2(nodes), 0.0)
    return StepTime(parts)


_OPTIMIZER_BYTES = 30
"""AdamW reads and writes weight, two moments (fp32) and the gradient, and writes the bf16 copy."""


def _size(dtype: DType) -> int:
    return {DType.fp32: 4, DType.bf16: 2}[dtype]


def _micro_batch(model: ModelConfig, layout: Layout, machine: Machine, reached: Reached) -> dict[str, float]:
    """Seconds by part of one micro-batch, forward and backward, on one device."""
    tokens, t = layout.micro_batch_size * layout.sequence_length, layout.tensor
    hidden, inner, query = model.hidden_size, model.intermediate_size, model.query_width
    qkv = query + 2 * model.key_value_width
    peak = machine.peak_teraflops
    bf16 = peak["bf16"] * 1e12 * reached.products
    rate = peak["fp8"] * 1e12 * reached.fp8_products if layout.compute is Precision.fp8 else bf16
    shapes = ((qkv // t, hidden), (hidden, query // t), (inner // t, hidden), (hidden, inner // t))
    products = sum(_linear(tokens, n, k, rate, machine, reached) for n, k in shapes)
    causal = 2 * layout.sequence_length * query / t * tokens
    attention = causal / (peak["bf16"] * 1e12) * (1 / reached.attention_forward + 2.5 / reached.attention_backward)
    bandwidth = machine.memory_gigabytes_per_second * 1e9 * reached.memory
    # Passes over memory, 2 bytes an element: squared ReLU 5, norms and residuals 20 (their rows are split), rotary 4.
    elementwise = 2 * tokens * (5 * inner + 20 * hidden + 4 * qkv) / t / bandwidth
    link = machine.node_link_gigabytes_per_second * 1e9 * reached.node_link
    message = 2 * tokens * hidden * (t - 1) / t / link
    blocks = model.num_layers / layout.pipeline
    head = _linear(tokens, model.vocab_size // t, hidden, bf16, machine, reached) / layout.pipeline
    loss = _LOSS_BYTES * tokens * model.vocab_size / t / bandwidth / layout.pipeline
    # 4 collectives forward, 4 backward, 2 that gather inputs again for the weights' gradients.
    exposed = (10 * blocks * (1 - reached.tensor_overlap) + 4 / layout.pipeline) * message
    return {
        "matrix products": blocks * products + head,
        "attention": blocks * attention,
        "element-wise": blocks * elementwise,
        "loss": loss,
        "tensor communication": exposed,
    }


_LOSS_BYTES = 26
"""Traffic of an unfused softmax and its gradient, for each logit."""


def _linear(rows: int, columns: int, depth: int, rate: float, machine: Machine, reached: Reached) -> float:
    """Seconds of a linear layer's three products: forward, gradient of the input, gradient of the weight."""
    shapes = ((rows, columns, depth), (rows, depth, columns), (depth, columns, rows))
    return sum(_product(*shape, rate, machine, reached) for shape in shapes)


def _product(m: int, n: int, k: int, rate: float, machine: Machine, reached: Reached) -> float:
    tiles = math.ceil(m / _TILE_ROWS) * math.ceil(n / _TILE_COLUMNS)
    waves = math.ceil(tiles / machine.multiprocessors)
    full = tiles / (waves * machine.multiprocessors)
    return 2 * m * n * k / (rate * full * k / (k + reached.product_depth))
