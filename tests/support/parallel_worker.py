"""What one rank of test_parallel.py does; its own file so that spawned processes can import it."""

from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from nemotron4_model import (
    ModelConfig,
    Transformer,
    begin_micro_batch,
    global_grad_norm_and_clip,
    grad_norms,
    initialisation,
    initialise,
    parallelise,
)
from nemotron4_model import loss as loss_module

CONFIG = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_attention_heads=8,
    num_key_value_heads=4,
    init_std=0.1,
    max_sequence_length=16,
)
STEPS, BATCH, LENGTH, MAX_NORM = 5, 12, 16, 0.5


def whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


class CountCollectives(TorchDispatchMode):
    """Counts the all-gathers that this process takes part in, and the reductions of gradients."""

    gathers = scatters = sums = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.gathers += "allgather" in str(func)
        self.scatters += "reduce_scatter" in str(func)
        self.sums += "allreduce" in str(func)
        return func(*args, **(kwargs or {}))


def train(rank: int, world_size: int, shape: tuple[int, int, int] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Five steps of clipped gradient descent; returns losses, norms, initial weights, first gradients, logits.

    Also the gathers of the first step, those of its forwards and of its backwards; and what its backwards scatter and
    sum over ranks.
    """
    chunk_tokens = options.pop("chunk_tokens", 128)
    with (
        mock.patch.object(loss_module, "MIN_CHUNK_TOKENS", chunk_tokens),
        mock.patch.dict(loss_module.LOGITS_BYTES, cpu=1),
    ):
        return train_in_chunks(rank, world_size, shape, options)


def train_in_chunks(
    rank: int, world_size: int, shape: tuple[int, int, int] | None, options: dict[str, Any]
) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard", "tensor")) if shape else None
    end_of_document = options.pop("end_of_document", None)
    micro_batches, reshard = options.pop("micro_batches", 1), options.get("reshard_after_forward", True)
    reduce = options.pop("reduce", False)
    with torch.device("meta"):
        model = Transformer(CONFIG)
    parallelise(model, mesh, **options)
    model.to_empty(device="cpu")
    with mock.patch.object(initialisation, "BLOCK_NUMBERS", 10 * CONFIG.hidden_size):  # parts end within blocks
        initialise(model, 7, CONFIG)
    start = {name: whole(p) for name, p in model.named_parameters()}
    data_ranks = shape[0] * shape[1] if shape else 1
    data_rank = rank // shape[2] if shape else 0
    tokens = torch.randint(CONFIG.vocab_size, (STEPS, BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, norms, grads, norms_by_name = [], [], {}, {}
    in_forward, in_backward = CountCollectives(), CountCollectives()
    for step in range(STEPS):
        mine = tokens[step].chunk(data_ranks)[data_rank]
        counted = step == 0 and mesh is not None and not options.get("compile")  # a compiler refuses such modes
        loss = torch.zeros(())
        for number, part in enumerate(mine.chunk(micro_batches), 1):
            begin_micro_batch(model, is_last=number == micro_batches, reshard=reshard, reduce=reduce)
            with in_forward if counted else nullcontext():
                mean = model(part[:, :-1], part[:, 1:], end_of_document=end_of_document).mean / micro_batches
            with in_backward if counted else nullcontext():
                mean.backward()
            loss += mean.detach()
        grads = grads or {name: whole(p.grad) for name, p in model.named_parameters()}
        norms_by_name = norms_by_name or grad_norms(model)
        norms.append(float(global_grad_norm_and_clip(model, MAX_NORM)))
        optimiser.step()
        optimiser.zero_grad()
        loss /= world_size
        if shape:
            torch.distributed.all_reduce(loss)
        losses.append(float(loss))
    with torch.no_grad():
        logits = model(tokens[0, :, :-1])
        last = model(tokens[0, :, :-1], last_only=True)
    return {
        "losses": losses, "norms": norms, "norms_by_name": norms_by_name, "start": start, "grads": grads,
        "logits": logits, "last": last, "gathers": (in_forward.gathers, in_backward.gathers),
        "reductions": (in_backward.scatters, in_backward.sums),
    }  # fmt: skip


def train_all(rank: int, world_size: int, cases: dict[str, Any]) -> dict[str, Any]:
    return {case: train(rank, world_size, shape, dict(options)) for case, (shape, options) in cases.items()}
