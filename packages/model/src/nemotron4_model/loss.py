"""Mean cross entropy of the output head, one chunk of tokens at a time, with the gradients computed in the same pass.

Each chunk's logits become its loss and then its part of the gradients, while they are still in cache, so no more than
one chunk's logits ever exist. For 256k words x 4096 tokens they would take 2 GB in bf16.

Invariant: for any number of tokens per chunk, loss and gradients equal `F.cross_entropy(x @ w.T, targets)` computed
in fp32 from the same logits.
Source: gradients in forward, chunk by chunk, as in Liger-Kernel (arXiv 2410.10989 section 3.2).

Shapes: N tokens (batch x sequence), D hidden, V vocabulary, C tokens of one chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemotron4_model.kernels.linear import WeightGradient, input_gradient, linear, onednn_is_faster
from nemotron4_model.kernels.softmax_gradient import bytes_per_logit, fp32_buffer, softmax_gradient_

LOGITS_BYTES = {"cpu": 24 << 20}
"""Size of a chunk's logits, with what computing on them takes beside, by device. On a CPU they stay in its cache, if
the vocabulary is small enough."""

OTHER_LOGITS_BYTES = 1 << 31
"""On other devices: 4,096 tokens of 256,000 words in bf16. Each chunk reads the head matrix and its gradient again, and
its gradient's product needs enough rows to fill a GPU, so smaller chunks are slower."""

MIN_CHUNK_TOKENS = 128
"""Products of fewer rows are slow, whatever the vocabulary."""

TILE_TOKENS = 256
"""Rows of the largest tile of a GPU's products: a chunk that is no multiple of it leaves its last tiles part empty."""


class Loss(NamedTuple):
    """What a model returns when given targets; both are fp32, in nats."""

    mean: Tensor
    """Mean negative log-likelihood: a scalar whose gradients can be taken once."""
    nll_BT: Tensor  # noqa: N815 (shapes in names)
    """Negative log-likelihood of each token, without gradients."""


class VocabularyShard(NamedTuple):
    """This process holds the rows of the head from `first_word` on; the processes of `group` together hold them all."""

    first_word: int
    group: dist.ProcessGroup


def linear_cross_entropy(
    x_BTD: Tensor,
    weight_VD: Tensor,
    targets_BT: Tensor,
    *,
    chunk_tokens: int | None = None,
    shard: VocabularyShard | None = None,
) -> Loss:
    """Negative log-likelihood of targets_BT under softmax(x @ weight.T), `chunk_tokens` (None: by device) at a time.

    Every target must be a word; none is ignored. Under autocast the products are in its dtype. With `shard`, weight_VD
    holds part of the vocabulary: every rank gets the whole loss, and its own addend of the gradient of x_BTD.
    """
    device = x_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BTD.dtype
    chunk_tokens = chunk_tokens or _chunk_tokens(device, dtype, len(weight_VD))
    want_gradients = torch.is_grad_enabled() and (x_BTD.requires_grad or weight_VD.requires_grad)
    with torch.autocast(device, enabled=False):
        return Loss(
            *_LinearCrossEntropy.apply(x_BTD, weight_VD, targets_BT, dtype, chunk_tokens, shard, want_gradients)  # type: ignore[no-untyped-call]  # torch's
        )


def _chunk_tokens(device_type: str, dtype: torch.dtype, num_words: int) -> int:
    fitting = LOGITS_BYTES.get(device_type, OTHER_LOGITS_BYTES) // (bytes_per_logit(dtype, device_type) * num_words)
    if device_type == "cpu":
        return max(MIN_CHUNK_TOKENS, fitting)
    return max(TILE_TOKENS, fitting // TILE_TOKENS * TILE_TOKENS)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        weight_VD: Tensor,
        targets_BT: Tensor,
        dtype: torch.dtype,
        chunk_tokens: int,
        shard: VocabularyShard | None,
        want_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        x_ND, low_weight_VD, targets_N = x_BTD.flatten(0, -2).to(dtype), weight_VD.to(dtype), targets_BT.flatten()
        group = None if shard is None else shard.group
        if shard is not None:
            targets_N = targets_N - shard.first_word
        nll_N = torch.empty(len(x_ND), dtype=torch.float32, device=x_ND.device)
        gradients = None
        # Every chunk uses the same memory, because allocating so much is slow on a CPU. oneDNN cannot be told where to
        # write, but reuses what the first chunk freed: that chunk has one token more (glibc before 2.38 cannot fit an
        # aligned block into a gap of exactly its size), and the memory of the gradients is allocated after it.
        by_onednn = onednn_is_faster(x_ND[:chunk_tokens], low_weight_VD)
        shape = min(chunk_tokens, len(x_ND)), len(weight_VD)
        logits = None if by_onednn else x_ND.new_empty(shape)
        buffer = fp32_buffer(shape, dtype, x_ND.device)
        bounds = [0, *range(chunk_tokens + by_onednn, len(x_ND), chunk_tokens), len(x_ND)]
        for chunk in map(slice, bounds, bounds[1:]):
            if logits is None:
                logits_CV = linear(x_ND[chunk], low_weight_VD)
            else:
                logits_CV = torch.mm(x_ND[chunk], low_weight_VD.T, out=logits[: chunk.stop - chunk.start])
            nll_N[chunk] = softmax_gradient_(
                logits_CV, targets_N[chunk], buffer, group=group, want_gradient=want_gradients
            )
            if want_gradients:
                gradients = gradients or _Gradients(x_ND, low_weight_VD)
                gradients.add(chunk, logits_CV)
            del logits_CV  # or the next chunk's would need memory beside them
        ctx.gradients = None if gradients is None else (gradients.grad_x_ND, gradients.grad_weight.sum_FD)
        ctx.like = x_BTD.shape, x_BTD.dtype, weight_VD.dtype
        nll_BT = nll_N.view(targets_BT.shape)
        ctx.mark_non_differentiable(nll_BT)
        return nll_BT.mean(), nll_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        assert ctx.gradients is not None, "the gradients of this loss were taken already"
        (shape, dtype, weight_dtype), (grad_x_ND, grad_weight_VD) = ctx.like, ctx.gradients
        ctx.gradients = None
        scale = grad_outputs[0] / len(grad_x_ND)
        grad_x_ND, grad_weight_VD = grad_x_ND.mul_(scale), grad_weight_VD.mul_(scale)
        return grad_x_ND.view(shape).to(dtype), grad_weight_VD.to(weight_dtype), None, None, None, None, None


class _Gradients:
    """Gradients of the summed loss: grad_x_ND by rows; that of the weight as a sum over chunks, in fp32."""

    def __init__(self, x_ND: Tensor, weight_VD: Tensor) -> None:
        self.x_ND, self.weight_VD = x_ND, weight_VD
        self.grad_x_ND = torch.empty_like(x_ND)
        self.grad_weight = WeightGradient(weight_VD)

    def add(self, chunk: slice, grad_CV: Tensor) -> None:
        input_gradient(grad_CV, self.weight_VD, self.grad_x_ND[chunk])
        self.grad_weight.add(grad_CV, self.x_ND[chunk])
