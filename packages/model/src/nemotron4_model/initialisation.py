"""Initial weights that do not depend on how the model is sharded.

Invariant: the full tensor of a parameter is a pure function of (seed, parameter name, shape); every rank draws the
same full tensor and keeps its own part. (torch's own reset of CPU DTensors gives every rank the same shard.)
Source: normal(0, 0.0134), with residual projections scaled by 1/sqrt(2L), as in Megatron-LM (arXiv 1909.08053 section
5.1) and NVIDIA's Nemotron-4 15B recipe; zero-centred norms start at 0.
"""

import hashlib
import math

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from nemotron4_model.config import ModelConfig
from nemotron4_model.transformer import Transformer

_RESIDUAL = ("attention.out.weight", "mlp.down.weight")
_NORM = ("norm.weight", "norm.bias")


def initialise(model: Transformer, seed: int, config: ModelConfig) -> None:
    """Fill every parameter in place. The model, sharded or not, must have storage: call it after `to_empty`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert not parameter.is_meta, f"{name} has no storage: call model.to_empty(device=...) first"
            full = initial_tensor(name, parameter.shape, seed, config)
            if isinstance(parameter, DTensor):
                full = full.to(parameter.to_local().device, parameter.dtype)
                # src_data_rank=None: every rank drew the same values, so nothing is sent.
                local = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.copy_(local)
            else:
                parameter.copy_(full)


def initial_tensor(name: str, shape: torch.Size, seed: int, config: ModelConfig) -> Tensor:
    """The full fp32 initial value of one parameter, on the CPU."""
    if name.endswith(_NORM):
        return torch.zeros(shape)
    std = config.init_std / math.sqrt(2 * config.num_layers) if name.endswith(_RESIDUAL) else config.init_std
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(shape, device="cpu").normal_(0.0, std, generator=generator)
