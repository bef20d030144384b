"""The topology: the mesh replicate x shard x tensor, and the machines it covers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nemotron4_common.rules import divisors, nearest, require
from nemotron4_model.config import Recompute
from nemotron4_train.machine import check_machine_name


class Device(Enum):
    """What a rank computes on."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class TopologyConfig:
    """The mesh replicate x shard x tensor, and the machines it covers."""

    replicate: int = 1
    """Data-parallel replicas of the sharded model (HSDP)."""
    shard: int = 1
    """Data-parallel ranks that parameters, gradients and optimiser state are sharded over (FSDP2)."""
    tensor: int = 1
    """Ranks that each layer is split over (tensor and sequence parallel)."""
    num_nodes: int = 1
    """Number of machines."""
    machine: str | None = None
    """Kind of machine, which predicted memory and step time depend on: a file of conf/machine, such as h100_sxm, or the
    path of a file like them, *.yaml; null means that it is not known, and then no memory is checked before Slurm."""
    device: Device = Device.cpu
    """Kind of device that each rank computes on: cpu or cuda."""
    micro_batch_size: int = 8
    """Sequences that a rank processes at once; gradient accumulation follows from it and the global batch."""
    recompute: Recompute = Recompute.none
    """Activations that the backward pass computes again: none, selective (cheap ones, not matrix products) or full
    (whole blocks)."""
    compile: bool = False
    """Compile each block with torch.compile, once per sequence length; validation is not compiled. With tensor > 1,
    every gradient of the first micro-batch of each shape is compared with the uncompiled one; a difference beyond
    rounding ends the run."""
    reshard_after_forward: bool = True
    """Free the gathered weights of a block after its forward pass, and gather them again for backward; false keeps them
    until the step's last backward: one gather a step instead of two a micro-batch, for the memory of the weights in
    precision.compute. Used with shard > 1."""
    reduce_each_micro_batch: bool = False
    """Reduce gradients after each micro-batch, so that a rank keeps only its shard of their sum (as ZeRO-2 does); false
    reduces once a step and until then keeps the whole gradients of all parameters, in precision.reduce. Replicas sum
    theirs once a step either way. Less memory for more traffic, where a step has several micro-batches and shard > 1;
    elsewhere no effect."""
    peak_teraflops: float | None = None
    """Dense bf16 peak of one device in TFLOP/s, which MFU is a fraction of; null looks the device up."""

    def __post_init__(self) -> None:
        """Refuse a mesh that does not fit the nodes, and a machine that is not known."""
        for key in ("replicate", "shard", "tensor", "num_nodes", "micro_batch_size"):
            require(getattr(self, key) >= 1, f"topology.{key}", getattr(self, key), "must be at least 1")
        require(
            self.num_ranks % self.num_nodes == 0,
            "topology.num_nodes",
            self.num_nodes,
            f"must divide replicate x shard x tensor = {self.num_ranks};"
            f" nearest: {nearest(self.num_nodes, divisors(self.num_ranks))}",
        )
        if self.machine is not None:
            check_machine_name(self.machine)
        if self.peak_teraflops is not None:
            require(self.peak_teraflops > 0, "topology.peak_teraflops", self.peak_teraflops, "must be above 0, or null")

    @property
    def num_ranks(self) -> int:
        """Processes of the run."""
        return self.replicate * self.shard * self.tensor

    @property
    def num_data_ranks(self) -> int:
        """Ranks that read different samples."""
        return self.replicate * self.shard

    @property
    def num_ranks_per_node(self) -> int:
        """Processes per machine."""
        return self.num_ranks // self.num_nodes
