"""What one rank of test_softmax_gradient.py does: the Triton kernels, run on a CPU by Triton's interpreter.

The environment must have TRITON_INTERPRET=1 before Triton is imported, hence a process of its own.
"""

from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from nemotron4_model import linear_cross_entropy
from nemotron4_model.kernels import softmax_gradient
from nemotron4_model.loss import VocabularyShard

WORDS, TOKENS, WIDTH = 20_001, 5, 16  # more than two blocks of the kernels, and the last one not full


def loss_and_gradients(dtype: torch.dtype, *, shard: VocabularyShard | None = None, rank: int = 0) -> list[Tensor]:
    """nll_T, the gradient of x and that of the weight, whole or this rank's part of each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(2 * WORDS, WIDTH, generator=generator).to(dtype)
    weight = (weight if shard is None else weight[rank * WORDS :][:WORDS]).clone().requires_grad_()
    targets = torch.tensor([[0, WORDS - 1, WORDS, 8_192, 2 * WORDS - 1]])
    loss = linear_cross_entropy(x, weight, targets, chunk_tokens=3, shard=shard)
    with torch.no_grad():
        without = linear_cross_entropy(x, weight, targets, chunk_tokens=3, shard=shard).nll_BT
    assert torch.equal(without, loss.nll_BT)
    return [loss.nll_BT[0], *torch.autograd.grad(loss.mean, (x, weight))]


def compare(rank: int, world_size: int) -> list[tuple[str, list[Tensor], list[Tensor]]]:
    """Of each case, what the Triton kernels give and what torch's functions give for the whole vocabulary."""
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        plain = loss_and_gradients(dtype)
        shard = VocabularyShard(rank * WORDS, dist.group.WORLD)
        with mock.patch.object(softmax_gradient, "_triton_is_usable", return_value=True):
            whole = loss_and_gradients(dtype)
            nll, grad_x, grad_weight = loss_and_gradients(dtype, shard=shard, rank=rank)
        dist.all_reduce(grad_x)
        cases.append((f"{dtype}", whole, plain))
        own_rows = plain[2][rank * WORDS :][:WORDS]
        cases.append((f"{dtype}, shard {rank}", [nll, grad_x, grad_weight], [*plain[:2], own_rows]))
    return cases
