"""Lightning's model-parallel strategy over our own mesh: replicate x shard x tensor.

Lightning builds a (data, tensor) mesh of its own; this hands the module ours, so that HSDP is possible. Sharding
itself is `nemotron4_model.parallelise`, called from the module; checkpoints are ours too (checkpoint.py).
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh

AXES = ("replicate", "shard", "tensor")


class MeshStrategy(ModelParallelStrategy):
    """One process a device, on the mesh the topology names."""

    def __init__(self, replicate: int, shard: int, tensor: int, **arguments: Any) -> None:
        super().__init__(data_parallel_size=replicate * shard, tensor_parallel_size=tensor, **arguments)
        self._mesh_shape = (replicate, shard, tensor)

    def setup_environment(self) -> None:
        """Join the process group, then lay our mesh on it."""
        super().setup_environment()
        self._device_mesh = init_device_mesh(self.root_device.type, self._mesh_shape, mesh_dim_names=AXES)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh
