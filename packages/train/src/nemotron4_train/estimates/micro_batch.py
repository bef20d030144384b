"""The time of one micro-batch on one device, forward and backward, by part: all but data parallelism.

A matrix product of M x N x K takes 2MNK / (rate x share of its waves of tiles that is full x K / (K + K0)); attention
has rates of its own; element-wise work is bytes over memory bandwidth; tensor parallelism moves activations.
Sources: sequence-parallel traffic, arXiv 2205.05198 section 4; waves of tiles, NVIDIA's "Matrix Multiplication
Background" (deep learning performance documentation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_train.estimates.collectives import Group
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.estimates.reached import Reached, peak_flops_per_second
from nemotron4_train.estimates.stack import Stack
from nemotron4_train.job import Precision
from nemotron4_train.machine import Machine

_TILE_ROWS, _TILE_COLUMNS = 128, 256
_BACKWARD_ATTENTION = 2.5
"""Products of attention's backward over forward's: five for two (arXiv 2205.14135)."""
_HEAD_GRADIENT_BYTES = 12
"""Of a loss that sums the head's gradient in fp32, for each of its weights: scaling it, and a copy in bf16."""


@dataclass(frozen=True)
class MicroBatch:
    """The stage with the head, which is the slowest of a pipeline."""

    model: ModelConfig
    layout: Layout
    machine: Machine
    reached: Reached
    stack: Stack

    def seconds(self) -> tuple[dict[str, float], dict[str, float]]:
        """By part, forward and backward; both have the same parts."""
        blocks = self.model.num_layers / self.layout.pipeline
        products, loss = self._head_seconds()
        head_share = (1.0, 0.0) if self.stack.loss_in_forward else (1 / 3, 2 / 3)
        of_pass = zip(
            self._product_seconds(),
            self._attention_seconds(),
            self._elementwise_seconds(),
            self._tensor_seconds(),
            head_share,
            strict=True,
        )
        forward, backward = (
            {
                "matrix products": blocks * linear + share * products,
                "attention": blocks * attention,
                "element-wise": blocks * elementwise,
                "loss": share * loss,
                "tensor communication": blocks * of_block + ends,
            }
            for linear, attention, elementwise, (of_block, ends), share in of_pass
        )
        return forward, backward

    def head_seconds(self) -> float:
        """Of them, those of the output head and the loss."""
        return sum(self._head_seconds())

    @property
    def _tokens(self) -> int:
        return self.layout.micro_batch_size * self.layout.sequence_length

    @property
    def _element_bytes(self) -> int:
        return self.layout.compute.dtype.num_bytes

    @property
    def _activation_precision(self) -> Precision:
        return Precision[self.layout.compute.dtype.name]

    def _product_seconds(self) -> tuple[float, float]:
        """A block's linear layers. Recomputing it ends before the last product, whose output backward does not read."""
        model, t = self.model, self.layout.tensor
        hidden, inner, query = model.hidden_size, model.intermediate_size, model.query_width
        qkv = query + 2 * model.key_value_width
        shapes = ((qkv // t, hidden), (hidden, query // t), (inner // t, hidden), (hidden, inner // t))
        is_fp8 = self.layout.compute is Precision.fp8
        peak_flops_per_second(self.machine, self.layout.compute)  # the machine must have it
        rate = peak_flops_per_second(self.machine, self._activation_precision) * self.reached.products
        rate *= self.stack.fp8_speedup if is_fp8 else 1.0
        forward = [self._product(self._tokens, columns, depth, rate) for columns, depth in shapes]
        backward = [self._gradients(self._tokens, columns, depth, rate) for columns, depth in shapes]
        again = forward[:-1] if self.layout.recompute is Recompute.full else []
        return sum(forward), sum(backward) + sum(again)

    def _gradients(self, rows: int, columns: int, depth: int, flops_per_second: float) -> float:
        """Of a linear layer's input and of its weight."""
        of_input = self._product(rows, depth, columns, flops_per_second)
        return of_input + self._product(depth, columns, rows, flops_per_second)

    def _product(self, rows: int, columns: int, depth: int, flops_per_second: float) -> float:
        tiles = math.ceil(rows / _TILE_ROWS) * math.ceil(columns / _TILE_COLUMNS)
        waves = math.ceil(tiles / self.machine.multiprocessors)
        full = tiles / (waves * self.machine.multiprocessors)
        of_depth = depth / (depth + self.reached.product_depth)
        return 2 * rows * columns * depth / (flops_per_second * full * of_depth)

    def _attention_seconds(self) -> tuple[float, float]:
        """A block's; of the causal half alone."""
        flops = 2 * self.layout.sequence_length * self.model.query_width / self.layout.tensor * self._tokens
        peak = peak_flops_per_second(self.machine, self._activation_precision)
        of_forward, of_backward = self.stack.attention.value
        forward = flops / (peak * of_forward)
        again = forward if self.layout.recompute is Recompute.full else 0.0
        return forward, _BACKWARD_ATTENTION * flops / (peak * of_backward) + again

    def _elementwise_seconds(self) -> tuple[float, float]:
        """A block's; tensor ranks divide the rows of norms, and the columns of all else."""
        model, traffic = self.model, self.stack.traffic
        qkv = model.query_width + 2 * model.key_value_width
        widths = ((model.hidden_size, traffic.hidden), (qkv, traffic.qkv), (model.intermediate_size, traffic.inner))
        elements = self._tokens / self.layout.tensor * self._element_bytes / 2
        num_bytes = [elements * sum(width * of_pass[index] for width, of_pass in widths) for index in (0, 1)]
        forward, backward = (self.reached.memory_seconds(number, self.machine) for number in num_bytes)
        return forward, backward + (0.0 if self.layout.recompute is Recompute.none else forward)

    def _head_seconds(self) -> tuple[float, float]:
        """The head's three products, and its loss."""
        words, hidden = self.model.vocab_size // self.layout.tensor, self.model.hidden_size
        rate = peak_flops_per_second(self.machine, self._activation_precision) * self.reached.products
        products = self._product(self._tokens, words, hidden, rate) + self._gradients(self._tokens, words, hidden, rate)
        num_bytes = self.stack.logit_bytes * self._element_bytes / 2 * self._tokens * words
        if self.stack.loss_in_forward:
            num_bytes += _HEAD_GRADIENT_BYTES * words * hidden
        return products, self.reached.memory_seconds(num_bytes, self.machine)

    def _tensor_seconds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of a block, and of embedding and head together; forward and backward."""
        layout, stack = self.layout, self.stack
        group = Group(num_ranks=layout.tensor, stride=1, devices_per_node=layout.devices_per_node, machine=self.machine)
        num_bytes = self._element_bytes * self._tokens * self.model.hidden_size
        whole = group.gather_seconds(num_bytes)
        is_small = layout.compute is Precision.fp8 and stack.gathers_fp8
        gather = group.gather_seconds(num_bytes / 2) if is_small else whole
        forward, backward = 2 * gather + 2 * whole, 2 * gather + 2 * whole
        backward += 2 * gather if stack.gathers_inputs_again else 0.0
        # Recomputation gathers twice and reduces once: it ends before the block's last product.
        backward += 0.0 if layout.recompute is Recompute.none else 2 * gather + whole
        if stack.pipelines_tensor:
            forward, backward = ((1 - self.reached.tensor_overlap) * seconds for seconds in (forward, backward))
        else:
            backward -= self.reached.data_overlap * stack.num_hidden_collectives / 2 * (gather + whole)
        return (forward, 2 * whole), (backward, 2 * whole)
