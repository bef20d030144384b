"""Lightning's model-parallel strategy over our own mesh: replicate x shard x tensor.

Lightning builds a (data, tensor) mesh of its own; this gives the module ours, so that HSDP is possible. Sharding
itself is `nemotron4_model.parallelise`, called from the module; checkpoints are ours too (checkpoints/).
"""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nemotron4_train.topology import Device, TopologyConfig

AXES = ("replicate", "shard", "tensor")


def join_process_group(topology: TopologyConfig) -> None:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR define, before Lightning would.

    The ranks can then verify a checkpoint together before anything is built from it. Lightning uses the existing group.
    """
    if topology.num_ranks == 1 or dist.is_initialized():
        return
    if topology.device is Device.cpu:
        dist.init_process_group("gloo")
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    atexit.register(dist.destroy_process_group)  # NCCL warns of a group that is not destroyed


def data_rank(mesh: DeviceMesh | None) -> int:
    """This rank's place among those that read different samples; 0 without a mesh."""
    if mesh is None:
        return 0
    return mesh["replicate"].get_local_rank() * mesh["shard"].size() + mesh["shard"].get_local_rank()


class MeshStrategy(ModelParallelStrategy):
    """One process per device, on the topology's mesh."""

    def __init__(self, replicate: int, shard: int, tensor: int, **arguments: Any) -> None:
        super().__init__(data_parallel_size=replicate * shard, tensor_parallel_size=tensor, **arguments)
        self._mesh_shape = (replicate, shard, tensor)

    def setup_environment(self) -> None:
        """Join the process group, then build our mesh on it."""
        super().setup_environment()
        self._device_mesh = init_device_mesh(self.root_device.type, self._mesh_shape, mesh_dim_names=AXES)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh
