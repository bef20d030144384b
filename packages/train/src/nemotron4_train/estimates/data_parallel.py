"""What data parallelism adds to a step: gathers of weights, reductions of gradients, and copies between.

What the first forward waits for and what the last backward leaves behind is bare: the embedding, or a bucket. The rest
runs beside the forward or backward it is scheduled in, and what is longer than that is bare too.
Invariant: with as many sequences for each rank, neither more replicas nor more shards of one replica communicate for
less time.
Sources: FSDP, arXiv 2304.11277 sections 3.2 and 4.3; buckets, Megatron-LM's distributed_data_parallel.py (40 million
parameters, or a million for each data rank where that is more, in order of backward; a parameter is not divided).
"""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.collectives import Group
from nemotron4_train.estimates.layout import Layout, Sharding
from nemotron4_train.estimates.reached import Reached
from nemotron4_train.machine import Machine

_BUCKET, _BUCKET_OF_RANK = 40e6, 1e6
_OPTIMIZER_BYTES = 40
"""Of AdamW, for each fp32 parameter: weight and moments read and written, the gradient's norm, clipping and use."""


@dataclass(frozen=True)
class DataParallel:
    """The data ranks of one tensor rank in one stage."""

    model: ModelConfig
    layout: Layout
    machine: Machine
    reached: Reached

    def communication_seconds(self, forward: float, backward: float) -> float:
        """Bare seconds of a step, beside a micro-batch's forward and backward of so many seconds."""
        layout, weight = self.layout, self.layout.compute.dtype.num_bytes
        gradient, units = layout.reduce.num_bytes, self._num_units
        first, last = self._gather(self._end, weight, 1), self._reduce(self._end, gradient, 1)
        gather, reduce = self._gather(self._parameters, weight, units), self._reduce(self._parameters, gradient, units)
        hide, times = self.reached.bare_seconds, layout.num_micro_batches
        again = block = scatter = last_scatter = 0.0
        if layout.reshard_after_forward:
            # Backward gathers the blocks again, the last of them before it can begin.
            again = self._gather(self._blocks, weight, self.model.num_layers)
            block = again / self.model.num_layers
        if layout.reduce_each_micro_batch:
            # FSDP2 waits for it at the end of each backward, although the next forward does not need it.
            scatter = self._gather(self._parameters, gradient, units)
            last_scatter = self._gather(self._end, gradient, 1)
        seconds = (times if layout.reshard_after_forward else 1) * hide(gather, first, forward)
        seconds += (times - 1) * hide(again + scatter, block + last_scatter, backward)
        return seconds + hide(again + reduce, block + last, backward)

    def copy_seconds(self) -> float:
        """Of a step, FSDP's copies: weights to the format of products, and sums of gradients."""
        layout = self.layout
        if layout.sharding is not Sharding.fsdp:
            return 0.0  # the optimiser writes the weights in bf16, and products add to the gradients themselves
        times = layout.num_micro_batches
        weight, gradient = layout.compute.dtype.num_bytes, layout.reduce.num_bytes
        gathered = times * (self._parameters + self._blocks) if layout.reshard_after_forward else self._parameters
        of_gather = (4 + weight) / layout.shard + (2 * weight if layout.shard > 1 else 0)
        of_sum: float = 2 * gradient + weight
        if layout.reduce_each_micro_batch:
            of_sum = weight + gradient + (gradient + 8) / layout.shard  # to the buffer; then its shard is added in fp32
        of_sums = (times - 1) * of_sum + weight + gradient
        return self._memory_seconds(gathered * of_gather + self._parameters * of_sums)

    def optimizer_seconds(self) -> float:
        """Of a step of AdamW on a rank's share of the parameters."""
        return self._memory_seconds(self._parameters / self._num_shards * _OPTIMIZER_BYTES)

    def _memory_seconds(self, num_bytes: float) -> float:
        return self.reached.memory_seconds(num_bytes, self.machine)

    @property
    def _parameters(self) -> float:
        return self.model.num_parameters / self.layout.tensor / self.layout.pipeline

    @property
    def _embedding(self) -> float:
        """The head has as many."""
        return self.model.num_embedding_parameters / 2 / self.layout.tensor

    @property
    def _blocks(self) -> float:
        """All but embedding and head, which backward does not read."""
        return self._parameters - 2 * self._embedding

    @property
    def _end(self) -> float:
        """Parameters that are gathered first and reduced last, together."""
        if self.layout.sharding is Sharding.fsdp:
            return self._embedding
        return min(self._parameters, max(self._bucket, self._embedding))

    @property
    def _bucket(self) -> float:
        return max(_BUCKET, _BUCKET_OF_RANK * self.layout.num_data_ranks)

    @property
    def _num_shards(self) -> int:
        return self.layout.shard if self.layout.sharding is Sharding.fsdp else self.layout.num_data_ranks

    @property
    def _num_units(self) -> float:
        """Blocks, embedding and head, or buckets: what is gathered or reduced at once."""
        if self.layout.sharding is Sharding.fsdp:
            return self.model.num_layers + 2
        return max(1.0, self._parameters / self._bucket)

    def _group(self, num_ranks: int, stride: int) -> Group:
        node = self.layout.devices_per_node
        return Group(num_ranks=num_ranks, stride=stride, devices_per_node=node, machine=self.machine)

    def _gather(self, parameters: float, size: int, units: float) -> float:
        group = self._group(self._num_shards, self.layout.tensor)
        return units * group.gather_seconds(parameters * size / units)

    def _reduce(self, parameters: float, size: int, units: float) -> float:
        """Scattered over the shards, then summed over replicas of a shard."""
        copies = self.layout.num_data_ranks // self._num_shards
        group = self._group(copies, self.layout.tensor * self._num_shards)
        of_shard = parameters * size / self._num_shards
        return self._gather(parameters, size, units) + units * group.sum_seconds(of_shard / units)
