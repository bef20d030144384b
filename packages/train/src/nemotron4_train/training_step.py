"""What one optimiser step computes, without the loop around it: training runs it, and the planner's dry run counts it.

Invariant: gradients are reduced once a step, after the last micro-batch's backward, unless the topology says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from nemotron4_model import Transformer, begin_micro_batch, parallelise
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.ranks import num_ranks
from nemotron4_train.topology import TopologyConfig


def parallel_model(job: TrainJob, mesh: DeviceMesh | None) -> Transformer:
    """The job's model on the mesh, on the meta device: without storage."""
    with torch.device("meta"):
        model = Transformer(job.model)
    parallelise(
        model,
        mesh,
        recompute=job.topology.recompute,
        compile=job.topology.compile,
        param_dtype=job.precision.compute.dtype.torch_dtype,
        reduce_dtype=job.precision.reduce.torch_dtype,
        float8=job.precision.compute is Precision.fp8,
        reshard_after_forward=reshards(job.topology),
    )
    return model


def reshards(topology: TopologyConfig) -> bool:
    """Whether gathered weights are freed after each forward and backward; alone, a rank would only cast again."""
    return topology.reshard_after_forward and topology.shard > 1


def reduces_each_micro_batch(topology: TopologyConfig) -> bool:
    """Whether gradients are reduced after each micro-batch; where nothing is sharded, that would free no memory."""
    return topology.reduce_each_micro_batch and topology.shard > 1


def micro_batches(topology: TopologyConfig, inputs_BT: Tensor, targets_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A rank's share of a global batch, cut into what it computes at once."""
    micro = min(topology.micro_batch_size, len(inputs_BT))
    return list(zip(torch.split(inputs_BT, micro), torch.split(targets_BT, micro), strict=True))


def accumulate(
    model: Transformer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    backward: Callable[[Tensor, Tensor], Tensor],
    topology: TopologyConfig,
) -> Tensor:
    """Accumulate gradients of the mean loss; returns each sample's mean negative log-likelihood (B,).

    `backward` adds the gradients of one micro-batch's inputs_BT and targets_BT, and returns its nll_BT.
    """
    nll: list[Tensor] = []
    reshard, reduce = reshards(topology), reduces_each_micro_batch(topology)
    for index, (inputs_BT, targets_BT) in enumerate(micro_batches):
        begin_micro_batch(model, is_last=index == len(micro_batches) - 1, reshard=reshard, reduce=reduce)
        nll.append(backward(inputs_BT, targets_BT).mean(dim=1))
    return torch.cat(nll)


def sums_over_ranks(
    nll_B: Tensor, sources_B: Tensor, num_sources: int, grad_norm: Tensor, flags: Sequence[bool]
) -> Tensor:
    """Sums and counts (2, num_sources + 1 + flags) over the ranks: of losses by source, the norm, and the flags set."""
    totals = torch.zeros(2, num_sources + 1 + len(flags), device=nll_B.device)
    totals[0].index_add_(0, sources_B, nll_B)
    totals[1].index_add_(0, sources_B, torch.ones_like(nll_B))
    totals[0, num_sources], totals[1, num_sources] = grad_norm, 1
    for column, flag in enumerate(flags, start=num_sources + 1):
        if flag:
            totals[1, column].fill_(1)  # by a kernel: a copy from the host would wait for the device
    if num_ranks() > 1:
        dist.all_reduce(totals)
    return totals
