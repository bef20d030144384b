"""What a job surely needs of each GPU, checked before anything is loaded: its compute capability and its memory.

Invariant: the memory is a lower bound of what training keeps, so what is refused cannot fit; what is not refused may
still run out. Left out are all gathered parameters but the head, gradients before they are sharded, what compiled
blocks keep beyond `recompute=selective`, fragmentation, and the memory of CUDA and NCCL.
"""

from __future__ import annotations

from nemotron4_model.config import Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.job import OptimizerKind, Precision, TrainJob
from nemotron4_train.launching.legs import Leg
from nemotron4_train.topology import TopologyConfig

_STATE, _HEAD = "weights, optimiser state and accumulated gradients", "the head as it is multiplied"
_LOGITS_TOKENS = 1_024
"""The head makes the logits of at least so many tokens at a time, if a micro-batch has them."""


def state_bytes(job: TrainJob, topology: TopologyConfig) -> int:
    """Bytes on each rank of weights, gradients and optimiser state, which are in fp32; with Muon, at least these."""
    moments = 2 if job.optimizer.kind is OptimizerKind.adamw else 1
    return 4 * (2 + moments) * job.model.num_parameters // (topology.shard * topology.tensor)


def needed_bytes(job: TrainJob, leg: Leg) -> dict[str, int]:
    """A lower bound of the bytes that each GPU of the leg holds at once, by what they are for."""
    model, topology = job.model, leg.topology
    elements = model.num_parameters // (topology.shard * topology.tensor)
    bytes_each = 4 if job.precision.compute.dtype is DType.fp32 else 2
    bytes_kept = 1 if job.precision.compute is Precision.fp8 else bytes_each  # compiled, it may keep float8
    phases = [job.schedule.phases[name] for name in leg.phases]
    micro, num_ranks = topology.micro_batch_size, topology.num_data_ranks
    tokens = max(min(micro, phase.global_batch_size // num_ranks) * phase.sequence_length for phase in phases)
    accumulates = any(phase.global_batch_size // num_ranks > micro for phase in phases)
    keeps_less = topology.compile and topology.recompute is Recompute.none
    recompute = Recompute.selective if keeps_less else topology.recompute
    is_copied = bytes_each < 4 or topology.shard > 1
    words = model.vocab_size // topology.tensor
    return {
        # Those of earlier micro-batches may be in precision.reduce; without any, none until backward frees the rest.
        _STATE: state_bytes(job, topology) - (4 - job.precision.reduce.num_bytes * accumulates) * elements,
        _HEAD: is_copied * words * model.hidden_size * bytes_each,
        "activations": model.activation_bytes_per_token(bytes_kept, recompute) * tokens // topology.tensor,
        "logits": min(tokens, _LOGITS_TOKENS) * words * bytes_each,
    }


def check_gpu(job: TrainJob, leg: Leg, name: str, capability: tuple[int, int], total_bytes: int) -> None:
    """Raise ValueError when a GPU is too old for the job's precision or has too little memory for the leg."""
    if job.precision.compute is Precision.bf16 and capability < (8, 0):
        raise ValueError(
            f"precision.compute (bf16): needs compute capability 8.0, as of an A100 or newer, and this {name} has"
            f" {capability[0]}.{capability[1]}; use precision=fp32"
        )
    parts = needed_bytes(job, leg)
    if sum(parts.values()) <= total_bytes:
        return
    key, way_out = f"topology.micro_batch_size ({leg.topology.micro_batch_size})", "make it smaller"
    if parts[_STATE] + parts[_HEAD] > total_bytes:
        key, way_out = f"model ({job.model.num_parameters:,} parameters)", "choose a smaller one"
    elif leg.topology.recompute is not Recompute.full:
        way_out += ", set topology.recompute=full"
    shown = ", ".join(f"{num_bytes / 1e9:,.1f} for {what}" for what, num_bytes in parts.items())
    raise ValueError(
        f"{key}: each GPU needs at least {sum(parts.values()) / 1e9:,.1f} GB ({shown}), and this {name} has"
        f" {total_bytes / 1e9:,.1f}; {way_out}, or shard over more GPUs with another topology=OPTION"
    )


def check_gpu_here(job: TrainJob, leg: Leg, index: int) -> None:
    """Check a GPU of this machine."""
    import torch

    found = torch.cuda.get_device_properties(index)
    check_gpu(job, leg, found.name, (found.major, found.minor), found.total_memory)
