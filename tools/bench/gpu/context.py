"""What every check knows: the device, and the sizes that suit it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nemotron4_model import ModelConfig

from .frame import NotApplicableError

_FLOAT8 = (8, 9)
"""The least capability that multiplies float8."""
_SMALL_BYTES = 60 << 30
"""With less memory, one sequence at a time, and no 15B."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices, as found by a process that is gone again."""

    device: str
    """cuda or cpu."""
    name: str
    count: int
    memory_bytes: int
    capability: tuple[int, int]

    @property
    def is_small(self) -> bool:
        """Whether one device has too little memory for the usual sizes."""
        return self.memory_bytes < _SMALL_BYTES


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes of the checks."""

    slice: ModelConfig
    """Two layers, for gradients."""
    slice_batch: int
    slice_tokens: int
    head: tuple[int, int, int]
    """Rows, width and vocabulary of the head alone."""
    head_chunks: tuple[int, ...]
    gemm: int
    copy_bytes: int
    packed: tuple[int, int]
    """Sequences, and tokens of each, of the memory of packed documents."""
    loop: ModelConfig
    """Its vocabulary is replaced by that of the corpus."""
    loop_tokens: int
    train: ModelConfig
    train_tokens: int
    micro_batch: int
    micro_batches: int
    """Per step."""
    timed_steps: int
    infer: ModelConfig
    prefill: tuple[int, ...]
    decode_contexts: tuple[int, ...]
    decode_tokens: int
    decode_batch: int


def _model(width: int, layers: int, heads: int, key_value_heads: int, vocab: int, tokens: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=4 * width,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_sequence_length=tokens,
    )


def real_sizes(machine: Machine) -> Sizes:
    """Those of a GPU."""
    return Sizes(
        slice=_model(1_024, 2, 8, 2, 4_096, 2_048),
        slice_batch=2,
        slice_tokens=512,
        head=(2_048, 2_048, 256_000),
        head_chunks=(1_024, 1_048, 2_048, 4_096),
        gemm=8_192,
        copy_bytes=4 << 30,
        packed=(4, 4_096),
        loop=_model(512, 4, 8, 4, 4_096, 256),
        loop_tokens=256,
        train=ModelConfig.preset("small_1_75b"),
        train_tokens=4_096,
        micro_batch=1 if machine.is_small else 4,
        micro_batches=4,
        timed_steps=5,
        infer=ModelConfig.preset("nemotron4_15b"),
        prefill=(512, 2_048, 4_096),
        decode_contexts=(128, 2_048),
        decode_tokens=64,
        decode_batch=64,
    )


def toy_sizes() -> Sizes:
    """Those of a test on a CPU."""
    tiny = _model(32, 2, 4, 2, 96, 256)
    return Sizes(
        slice=tiny,
        slice_batch=2,
        slice_tokens=48,
        head=(32, 32, 512),
        head_chunks=(16, 32),
        gemm=64,
        copy_bytes=1 << 20,
        packed=(2, 64),
        loop=_model(32, 1, 4, 2, 96, 32),
        loop_tokens=32,
        train=tiny,
        train_tokens=64,
        micro_batch=2,
        micro_batches=2,
        timed_steps=1,
        infer=tiny,
        prefill=(16, 32),
        decode_contexts=(8, 16),
        decode_tokens=4,
        decode_batch=4,
    )


@dataclass(frozen=True, kw_only=True, eq=False)  # so that it is a key of caches
class Context:
    """What a check gets."""

    machine: Machine
    sizes: Sizes
    corpus: Path | None
    """A prepared corpus."""
    scratch: Path
    """A directory that all parts share."""

    @property
    def device(self) -> str:
        """cuda or cpu."""
        return self.machine.device

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def device_is_sound(self) -> bool:
        """Whether the device still works after a failure; a CUDA fault spoils all that its process does next."""
        if not self.on_cuda or not torch.cuda.is_initialized():
            return True
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True

    def require_cuda(self, why: str) -> None:
        """NotApplicableError on a CPU."""
        if not self.on_cuda:
            raise NotApplicableError(f"needs a GPU: {why}")

    def require_float8(self) -> None:
        """NotApplicableError where float8 cannot be multiplied."""
        self.require_cuda("float8 is not multiplied by CPUs")
        if self.machine.capability < _FLOAT8:
            raise NotApplicableError(f"float8 needs capability 8.9, and this GPU has {self.machine.capability}")
        try:
            import torchao  # noqa: F401  # only whether it is there
        except ImportError as error:
            raise NotApplicableError(f"torchao cannot be imported ({error})") from error


def find_machine(device: str) -> Machine | None:
    """The devices of this machine, None if there are none of that kind. Initialises CUDA: call it in a child."""
    if device == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Machine(device="cpu", name="CPU", count=1, memory_bytes=memory, capability=(0, 0))
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return Machine(
        device="cuda",
        name=found.name,
        count=torch.cuda.device_count(),
        memory_bytes=found.total_memory,
        capability=(found.major, found.minor),
    )


@functools.cache
def one_rank_mesh(device: str) -> DeviceMesh:
    """The mesh replicate x shard x tensor of this process alone, by which training computes in bf16."""
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return init_device_mesh(device, (1, 1, 1), mesh_dim_names=("replicate", "shard", "tensor"))
