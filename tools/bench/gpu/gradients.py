"""Losses and gradients of a slice of two layers, and generation, against references."""

from __future__ import annotations

import functools
from itertools import pairwise

import torch
from torch import Tensor

from nemotron4_infer import SamplingConfig, generate
from nemotron4_model import Transformer

from .context import Context
from .frame import Check, Figures, require
from .models import (
    build,
    draw_weights,
    loss_and_gradients,
    random_tokens,
    reference,
    relative_error,
    require_same_gradients,
    weights_of,
)

_FP32, _BF16 = (1e-6, 1e-5), (2e-3, 2e-2)
"""Tolerances of the loss, relative, and of each gradient, by norm."""
_NAN_PRONE = 704
"""Tokens of a sequence whose last block of 128 is half full: cuDNN's gradients with a mask had NaN there."""


@functools.cache
def _reference(context: Context) -> tuple[float, dict[str, Tensor]]:
    sizes = context.sizes
    tokens = random_tokens(sizes.slice, sizes.slice_batch, sizes.slice_tokens, "cpu")
    return reference(weights_of(build(context, sizes.slice)), sizes.slice, tokens)


def slice_in_fp32(context: Context) -> Figures:
    """Loss and every gradient in fp32 against the definition in fp64 on the CPU."""
    return _against_reference(context, False, *_FP32)


def slice_in_bf16(context: Context) -> Figures:
    """The same in bf16, as training computes it."""
    return _against_reference(context, True, *_BF16)


def _against_reference(context: Context, bf16: bool, loss_tolerance: float, tolerance: float) -> Figures:
    sizes = context.sizes
    tokens = random_tokens(sizes.slice, sizes.slice_batch, sizes.slice_tokens, context.device)
    loss, found = loss_and_gradients(build(context, sizes.slice, bf16=bf16), tokens)
    wanted_loss, wanted = _reference(context)
    error = abs(loss - wanted_loss) / wanted_loss
    figures = require_same_gradients(found, wanted, tolerance)
    require(error <= loss_tolerance, f"loss {loss} is {error:.2g} off {wanted_loss}")
    return figures | {"loss_error": error}


def packed_documents(context: Context) -> Figures:
    """Documents packed into rows have the losses and gradients that they have alone."""
    return _packed_and_apart(context, context.sizes.slice_tokens)


def packed_documents_of_704_tokens(context: Context) -> Figures:
    """The same at a length at which a kernel has given NaN."""
    return _packed_and_apart(context, _NAN_PRONE if context.on_cuda else 44)


def _packed_and_apart(context: Context, length: int) -> Figures:
    config, end = context.sizes.slice, 0
    tokens = random_tokens(config, 1, length, context.device).clamp_(min=1)  # 0 ends a document
    cuts = [0, length // 5, length // 2 + 3, length]
    for cut in cuts[1:-1]:
        tokens[0, cut - 1] = end
    model = build(context, config, bf16=context.on_cuda)
    loss, found = loss_and_gradients(model, tokens, end_of_document=end)
    apart, wanted = 0.0, {}
    for first, last in pairwise(cuts):
        alone, gradients = loss_and_gradients(model, tokens[:, first : last + 1])
        share = (last - first) / length
        apart += alone * share
        wanted = {name: wanted.get(name, 0.0) + gradient * share for name, gradient in gradients.items()}
    loss_tolerance, tolerance = _BF16 if context.on_cuda else _FP32
    error = abs(loss - apart) / apart
    figures = require_same_gradients(found, wanted, tolerance)
    require(error <= loss_tolerance, f"loss {loss} is {error:.2g} off {apart}")
    return figures | {"loss_error": error}


def memory_of_packed_documents(context: Context) -> Figures:
    """Packed documents take little more memory than one long document."""
    context.require_cuda("memory is counted on a GPU only")
    batch, length = context.sizes.packed
    config = context.sizes.train
    config = type(config)(**vars(config) | {"num_layers": 2, "vocab_size": 4_096})
    model, peaks = build(context, config, bf16=True), {}
    tokens = random_tokens(config, batch, length, context.device)
    for name, end in (("causal", None), ("packed", int(tokens[0, length // 3]))):
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model(tokens[:, :-1], tokens[:, 1:], end_of_document=end).mean.backward()
        peaks[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    figures = {"peak_gibibytes": peaks}
    require(peaks["packed"] <= 1.3 * peaks["causal"], "packed documents take over 1.3 times the memory", figures)
    return figures


def cached_generation(context: Context) -> Figures:
    """Greedy generation with a cache chooses the tokens that whole forward passes choose, in fp32."""
    model = Transformer(context.sizes.slice).to(context.device)
    draw_weights(model)
    prompt, count = list(range(1, 12)), 24
    found = list(generate(model, prompt, SamplingConfig(max_new_tokens=count), eos_id=-1))
    wanted = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([wanted], device=context.device))
            wanted.append(int(logits[0, -1].argmax()))
    require(found == wanted[len(prompt) :], f"{found} instead of {wanted[len(prompt) :]}")
    return {"tokens": count, "different_tokens": len(set(found))}


def bf16_logits(context: Context) -> Figures:
    """Logits in bf16 are near those in fp32."""
    model = Transformer(context.sizes.slice).to(context.device)
    draw_weights(model)
    tokens = random_tokens(context.sizes.slice, 1, context.sizes.slice_tokens, context.device)
    with torch.no_grad():
        wanted = model(tokens)
        error = relative_error(model.bfloat16()(tokens), wanted)
    require(error <= 3e-2, f"they are {error:.2g} off")
    return {"error": error}


CHECKS = (
    Check(slice_in_fp32, 8),
    Check(slice_in_bf16, 4),
    Check(packed_documents, 5),
    Check(packed_documents_of_704_tokens, 4),
    Check(memory_of_packed_documents, 5),
    Check(cached_generation, 4),
    Check(bf16_logits, 3),
)
