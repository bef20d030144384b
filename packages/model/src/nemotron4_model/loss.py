"""Cross entropy of the output head without ever holding the gradient, or for a large vocabulary even the logits, twice.

Invariant: for any number of rows per chunk the result and the gradients equal `F.cross_entropy(x @ w.T, targets)`
computed in fp32 from the same logits, per token and not reduced.
Source: chunking as in Liger-Kernel (arXiv 2410.10989 section 3.2); per-token output and recomputation are ours.

Shapes: N tokens (batch x sequence), D hidden, V vocabulary, C tokens of one chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

LARGE_VOCABULARY = 65_536
"""Above this many words the logits of all tokens are not kept: 256k words x 4096 tokens are 2 GB in bf16."""

CHUNK_TOKENS = 1_024
"""Tokens per chunk: each chunk reads the head matrix again, so smaller ones are bound by memory."""


CPU_ROWS = 256
"""Rows treated at once on a processor even when all logits are kept, so that they are still in its cache."""


class VocabularyShard(NamedTuple):
    """This process holds the rows of the head from `first_word` on; `group` holds them all."""

    first_word: int
    group: dist.ProcessGroup


def loss_chunk_tokens(vocab_size: int) -> int | None:
    """Tokens per chunk for this vocabulary; None keeps all logits, which is faster and affordable when it is small."""
    return CHUNK_TOKENS if vocab_size > LARGE_VOCABULARY else None


def linear_cross_entropy(
    x_BTD: Tensor,
    weight_VD: Tensor,
    targets_BT: Tensor,
    *,
    chunk_tokens: int | None,
    shard: VocabularyShard | None = None,
) -> Tensor:
    """Negative log-likelihood nll_BT in nats, fp32, of targets_BT under softmax(x @ weight.T).

    `chunk_tokens=None` computes the logits once and keeps their gradient, in the dtype of x, in their place; a number
    computes that many rows at a time, again in backward (one more product), and holds no more. With `shard`,
    weight_VD is a part of the vocabulary: nll_BT is whole on every rank, the gradient of x_BTD is this rank's part of
    a sum.
    """
    if torch.is_autocast_enabled(x_BTD.device.type):
        dtype = torch.get_autocast_dtype(x_BTD.device.type)
        x_BTD, weight_VD = x_BTD.to(dtype), weight_VD.to(dtype)
    nll_BT: Tensor = _LinearCrossEntropy.apply(x_BTD, weight_VD, targets_BT, chunk_tokens, shard)  # type: ignore[no-untyped-call]
    return nll_BT


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        weight_VD: Tensor,
        targets_BT: Tensor,
        chunk_tokens: int | None,
        shard: VocabularyShard | None,
    ) -> Tensor:
        x_ND, targets_N = x_BTD.flatten(0, -2), targets_BT.flatten()
        if shard is not None:
            targets_N = targets_N - shard.first_word
        nll_BT = torch.empty(targets_BT.shape, dtype=torch.float32, device=x_BTD.device)
        nll_N, log_total_N, total_N = (
            nll_BT.view(-1),
            torch.empty_like(nll_BT).view(-1),
            torch.empty_like(nll_BT).view(-1),
        )
        ctx.rows = _rows_at_once(x_ND, chunk_tokens)
        kept = [x_ND.new_empty(len(x_ND), len(weight_VD))] if chunk_tokens is None else []
        for chunk in _chunks(len(x_ND), ctx.rows):
            own_CV = kept[0][chunk] if kept else None
            logits_CV = torch.mm(x_ND[chunk], weight_VD.T, out=own_CV).float()  # in fp32 itself, else a copy
            largest_C, total_N[chunk], target_logit_C = _exponentials(logits_CV, targets_N[chunk], shard)
            log_total_N[chunk] = largest_C + total_N[chunk].log()
            torch.sub(log_total_N[chunk], target_logit_C, out=nll_N[chunk])
            if own_CV is not None:
                _subtract_at_target(logits_CV, targets_N[chunk], total_N[chunk])
                if own_CV.dtype != torch.float32:
                    own_CV.copy_(logits_CV)
        ctx.save_for_backward(x_ND, weight_VD, targets_N, log_total_N, total_N, *kept)
        ctx.shape = x_BTD.shape
        return nll_BT

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD, targets_N, log_total_N, total_N, *kept = ctx.saved_tensors
        grad_N = grad_outputs[0].flatten()
        if kept:
            # The gradient of the logits but for a factor a row, which the narrow side of both products takes.
            (grad_NV,), scale_N1 = kept, (grad_N / total_N)[:, None]
            grad_x_ND = (grad_NV @ weight_VD).mul_(scale_N1)
            grad_weight_VD = grad_NV.T @ (x_ND * scale_N1).to(x_ND.dtype)
            return grad_x_ND.view(ctx.shape), grad_weight_VD, None, None, None
        grad_x_ND = torch.empty_like(x_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # many addends: fp32
        for chunk in _chunks(len(x_ND), ctx.rows):
            grad_C, logits_CV = grad_N[chunk], (x_ND[chunk] @ weight_VD.T).float()
            # In place, the gradient of the logits: (softmax - one_hot(target)) * gradient of the loss.
            grad_CV = logits_CV.sub_(log_total_N[chunk][:, None]).exp_().mul_(grad_C[:, None])
            grad_CV = _subtract_at_target(grad_CV, targets_N[chunk], grad_C).to(x_ND.dtype)
            torch.mm(grad_CV, weight_VD, out=grad_x_ND[chunk])
            if grad_CV.dtype == torch.float32:
                torch.addmm(grad_weight_VD, grad_CV.T, x_ND[chunk], out=grad_weight_VD)
            else:
                grad_weight_VD += grad_CV.T @ x_ND[chunk]
        return grad_x_ND.view(ctx.shape), grad_weight_VD.to(weight_VD.dtype), None, None, None


def _rows_at_once(x_ND: Tensor, chunk_tokens: int | None) -> int:
    if chunk_tokens is None and x_ND.device.type == "cpu":
        return CPU_ROWS
    return chunk_tokens or max(len(x_ND), 1)


def _chunks(num_rows: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, num_rows, rows)]


def _subtract_at_target(x_CV: Tensor, targets_C: Tensor, amount_C: Tensor) -> Tensor:
    """In place; nothing in the rows whose target is no word of this shard."""
    here_C = (targets_C >= 0) & (targets_C < x_CV.shape[1])
    return x_CV.scatter_add_(1, targets_C.where(here_C, 0)[:, None], -(amount_C * here_C)[:, None])


def _exponentials(logits_CV: Tensor, targets_C: Tensor, shard: VocabularyShard | None) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite logits by exp(logits - largest); return largest_C, the total_C of these, and the target's logit_C."""
    here_C = (targets_C >= 0) & (targets_C < logits_CV.shape[1])
    target_logit_C = logits_CV.gather(1, targets_C.where(here_C, 0)[:, None])[:, 0]
    largest_C = logits_CV.amax(dim=-1)
    if shard is not None:
        dist.all_reduce(largest_C, dist.ReduceOp.MAX, group=shard.group)
    total_C = logits_CV.sub_(largest_C[:, None]).exp_().sum(dim=-1)
    if shard is None:
        return largest_C, total_C, target_logit_C
    sums_2C = torch.stack([total_C, target_logit_C * here_C])
    dist.all_reduce(sums_2C, group=shard.group)
    return largest_C, sums_2C[0], sums_2C[1]
