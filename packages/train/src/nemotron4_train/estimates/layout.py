"""How a step of training is spread over devices: all that its memory and its time depend on beside model and machine.

Invariant: a layout's global batch is a whole number of micro-batches on every data-parallel rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nemotron4_model.config import Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.schedule import Phase
from nemotron4_train.topology import Device, TopologyConfig


class Sharding(Enum):
    """What data-parallel ranks divide among themselves."""

    fsdp = "fsdp"
    """Weights, gradients and optimiser state, all fp32; weights are gathered in the format of the products: ours."""
    distributed_optimizer = "distributed_optimizer"
    """Optimiser state and fp32 weights; each rank keeps whole weights and gradients: Megatron-LM, published runs."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One optimiser step on replicate x shard x tensor (x pipeline) devices."""

    replicate: int = 1
    shard: int
    tensor: int
    pipeline: int = 1
    """Stages that the blocks are divided into; ours has one, published runs of the 340B have more."""
    virtual_stages: int = 1
    """Parts of a stage that take turns."""
    devices_per_node: int
    micro_batch_size: int
    """Sequences that a rank computes at once."""
    global_batch_size: int
    """Sequences of a step."""
    sequence_length: int
    compute: Precision = Precision.bf16
    reduce: DType = DType.bf16
    """Format of a gradient on the network."""
    recompute: Recompute = Recompute.none
    reshard_after_forward: bool = False
    """As topology.reshard_after_forward."""
    reduce_each_micro_batch: bool = False
    """As topology.reduce_each_micro_batch."""
    compile: bool = False
    device: Device = Device.cuda
    """Some operations need other buffers on a CPU."""
    sharding: Sharding = Sharding.distributed_optimizer

    def __post_init__(self) -> None:
        """Hold the invariant."""
        assert self.global_batch_size % (self.num_data_ranks * self.micro_batch_size) == 0, self

    @property
    def num_devices(self) -> int:
        """All devices."""
        return self.num_data_ranks * self.tensor * self.pipeline

    @property
    def num_nodes(self) -> int:
        """Machines, the last of which may be part full."""
        return -(-self.num_devices // self.devices_per_node)

    @property
    def num_data_ranks(self) -> int:
        """Ranks, or groups of ranks, that compute different sequences."""
        return self.replicate * self.shard

    @property
    def num_micro_batches(self) -> int:
        """Of a rank, in a step."""
        return self.global_batch_size // self.num_data_ranks // self.micro_batch_size

    @property
    def tokens_per_step(self) -> int:
        """Over all devices."""
        return self.global_batch_size * self.sequence_length


def layout_of(job: TrainJob, phase: Phase, topology: TopologyConfig) -> Layout:
    """The layout of a phase of a job on a topology."""
    local = phase.global_batch_size // topology.num_data_ranks
    return Layout(
        replicate=topology.replicate,
        shard=topology.shard,
        tensor=topology.tensor,
        devices_per_node=topology.num_ranks_per_node,
        micro_batch_size=min(topology.micro_batch_size, local),
        global_batch_size=phase.global_batch_size,
        sequence_length=phase.sequence_length,
        compute=job.precision.compute,
        reduce=job.precision.reduce,
        recompute=topology.recompute,
        reshard_after_forward=topology.reshard_after_forward and topology.shard > 1,
        reduce_each_micro_batch=topology.reduce_each_micro_batch and topology.shard > 1,
        compile=topology.compile,
        device=topology.device,
        sharding=Sharding.fsdp,
    )
