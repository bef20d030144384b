"""Lightning's model-parallel strategy over our own mesh: replicate x shard x tensor.

Lightning builds a (data, tensor) mesh of its own; this gives the module ours, so that HSDP is possible. Sharding
itself is `nemotron4_model.parallelise`, called from the module; checkpoints are ours too (checkpoints/).
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.topology import Device

AXES = ("replicate", "shard", "tensor")


def uses_mesh(job: TrainJob) -> bool:
    """Whether the job trains through FSDP2: several ranks, or one that computes below fp32.

    Low precision is FSDP2's for any number of ranks, so that all train the same model.
    """
    return job.topology.num_ranks > 1 or job.precision.compute is not Precision.fp32


@contextmanager
def process_group(job: TrainJob) -> Iterator[None]:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR define, before Lightning would.

    The ranks can then verify a checkpoint together before anything is built from it. Lightning uses the existing group.
    The group of several ranks lasts until the process ends. A rank that is alone has a group of its own on the mesh,
    which sends nothing and ends here: a process may train several runs.
    """
    if not uses_mesh(job) or dist.is_initialized():
        yield
    elif job.topology.num_ranks > 1:
        _join(job.topology.device)
        yield
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in its __all__
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _join(device: Device) -> None:
    if device is Device.cpu:
        dist.init_process_group("gloo")
        return
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    dist.init_process_group("nccl", device_id=own)
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

    def _configure_launcher(self) -> None:
        """No launcher of Lightning's: it would write to os.environ, and our ranks run already."""

    def setup_environment(self) -> None:
        """Build our mesh on the process group, instead of Lightning's."""
        ParallelStrategy.setup_environment(self)
        self._setup_distributed()
        self._device_mesh = init_device_mesh(self.root_device.type, self._mesh_shape, mesh_dim_names=AXES)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh
