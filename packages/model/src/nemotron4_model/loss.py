"""Cross entropy of the output head without ever holding the gradient, or for a large vocabulary even the logits, twice.

Invariant: for any number of rows per chunk the result and the gradients equal `F.cross_entropy(x @ w.T, targets)`
computed in fp32 from the same logits, per token and not reduced.
Source: chunking as in Liger-Kernel (arXiv 2410.10989 section 3.2); per-token output and recomputation are ours.

Shapes: N tokens (batch x sequence), D hidden, V vocabulary, C tokens of one chunk.
"""

from typing import Any

import torch
from torch import Tensor

LARGE_VOCABULARY = 65_536
"""Above this many words the logits of all tokens are not kept: 256k words x 4096 tokens are 2 GB in bf16."""

CHUNK_TOKENS = 1_024
"""Tokens per chunk: each chunk reads the head matrix again, so smaller ones are bound by memory."""


def loss_chunk_tokens(vocab_size: int) -> int | None:
    """Tokens per chunk for this vocabulary; None keeps all logits, which is faster and affordable when it is small."""
    return CHUNK_TOKENS if vocab_size > LARGE_VOCABULARY else None


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, chunk_tokens: int | None) -> Tensor:
    """Negative log-likelihood nll_N in nats, fp32, of targets_N under softmax(x @ weight.T).

    `chunk_tokens=None` computes the logits once and turns them into their own gradient in place; a number computes
    that many rows at a time, again in backward (one more product), and holds no more. Backward runs once.
    """
    if torch.is_autocast_enabled(x_ND.device.type):
        dtype = torch.get_autocast_dtype(x_ND.device.type)
        x_ND, weight_VD = x_ND.to(dtype), weight_VD.to(dtype)
    nll_N: Tensor = _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, chunk_tokens)  # type: ignore[no-untyped-call]
    return nll_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int | None) -> Tensor:
        rows = chunk_tokens or max(len(x_ND), 1)
        nll, log_total, logits_CV = [], [], None
        for x_CD, targets_C in zip(torch.split(x_ND, rows), torch.split(targets_N, rows), strict=True):
            logits_CV = x_CD @ weight_VD.T
            log_total_C = torch.logsumexp(logits_CV.float(), dim=-1)
            nll.append(log_total_C - logits_CV.gather(1, targets_C[:, None])[:, 0].float())
            log_total.append(log_total_C)
        kept = logits_CV if chunk_tokens is None else None
        ctx.save_for_backward(x_ND, weight_VD, targets_N, torch.cat(log_total), kept)
        ctx.rows = rows
        return torch.cat(nll)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_ND, weight_VD, targets_N, log_total_N, kept = ctx.saved_tensors
        grad_x_ND = torch.empty_like(x_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=weight_VD.dtype if kept is not None else torch.float32)
        for start in range(0, len(x_ND), ctx.rows):
            chunk = slice(start, start + ctx.rows)
            logits_CV = x_ND[chunk] @ weight_VD.T if kept is None else kept
            grad_CV = _logits_to_gradient(logits_CV, log_total_N[chunk], targets_N[chunk], grad_outputs[0][chunk])
            grad_x_ND[chunk] = grad_CV @ weight_VD
            if kept is not None:
                grad_weight_VD = grad_CV.T @ x_ND
            else:
                grad_weight_VD += grad_CV.T @ x_ND[chunk]
        return grad_x_ND, grad_weight_VD.to(weight_VD.dtype), None, None


def _logits_to_gradient(logits_CV: Tensor, log_total_C: Tensor, targets_C: Tensor, grad_C: Tensor) -> Tensor:
    """Overwrite logits with the gradient of sum(grad * nll): (softmax - one_hot(target)) * grad."""
    probabilities_CV = logits_CV.sub_(log_total_C[:, None]).exp_()
    probabilities_CV.mul_(grad_C[:, None])
    probabilities_CV.scatter_add_(1, targets_C[:, None], -grad_C[:, None].to(probabilities_CV.dtype))
    return probabilities_CV
