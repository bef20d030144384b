"""Prefill and decoding of the 15B's shape in bf16, with random weights: tokens/s, and the share of the bandwidth."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from nemotron4_infer import KVCache, SamplingConfig, generate
from nemotron4_model import Transformer

from .context import Context
from .frame import Check, Figures, NotApplicableError, require
from .models import copy_bytes_per_second, draw_weights, milliseconds, random_tokens

_MAX_SECONDS_PER_TOKEN = 1.0
_FIRST_TOKENS = 8


def _dtype(context: Context) -> torch.dtype:
    return torch.bfloat16 if context.on_cuda else torch.float32


@functools.cache
def _model(context: Context) -> Transformer:
    if context.on_cuda and context.machine.is_small:
        raise NotApplicableError("the weights take 31 GB, and this GPU has less than 60 GiB")
    with torch.device("meta"):
        model = Transformer(context.sizes.infer)
    model = model.to(_dtype(context)).to_empty(device=context.device).eval()
    draw_weights(model)
    return model


def prefill(context: Context) -> Figures:
    """A prompt read in one pass."""
    model, figures = _model(context), {}
    for length in context.sizes.prefill:
        tokens = random_tokens(model.config, 1, length, context.device)[:, :length]
        spent = milliseconds(context, functools.partial(_read, context, tokens), 3)
        # Forward is a third of training's operations.
        flops = model.config.flops_per_token(length, causal=True) / 3 * length
        figures[str(length)] = {
            "milliseconds": round(spent, 2),
            "tokens_per_second": round(length / spent * 1e3),
            "teraflops": round(flops / spent / 1e9, 2),
        }
    return figures


@torch.inference_mode()
def _read(context: Context, tokens: torch.Tensor) -> KVCache:
    model = _model(context)
    capacity = min(tokens.shape[1] + context.sizes.decode_tokens, model.config.max_sequence_length)
    cache = KVCache(
        model.config, capacity=capacity, batch_size=len(tokens), dtype=_dtype(context), device=context.device
    )
    logits = model(tokens, position_BT=cache.positions(tokens.shape[1]), cache=cache, last_only=True)
    require(bool(logits.isfinite().all()), "logits are not finite")
    return cache


def decode(context: Context) -> Figures:
    """Tokens one by one, by `generate`, after contexts of several lengths."""
    model, figures = _model(context), {}
    for length in context.sizes.decode_contexts:
        prompt = random_tokens(model.config, 1, length, "cpu")[0, :length].tolist()
        stream = generate(model, prompt, SamplingConfig(max_new_tokens=context.sizes.decode_tokens), eos_id=-1)
        figures[str(length)] = _speed(context, length, lambda stream=stream: next(stream))
    return figures


def _speed(context: Context, length: int, step: Callable[[], object]) -> Figures:
    """Of `step`, which makes one token. Fails when it takes over a second."""
    config, count = context.sizes.infer, context.sizes.decode_tokens
    step()
    _synchronise(context)
    start, done = time.perf_counter(), 0
    for done in range(1, count):
        step()
        if done == min(_FIRST_TOKENS, count - 1):
            _synchronise(context)
            each = (time.perf_counter() - start) / done
            require(each <= _MAX_SECONDS_PER_TOKEN, f"a token takes {each:.1f} s", {"context": length})
    _synchronise(context)
    seconds = (time.perf_counter() - start) / done
    size = _dtype(context).itemsize
    read = config.num_parameters_without_input_embedding * size
    read += (length + count // 2) * config.key_value_bytes_per_token(size)
    return {
        "milliseconds_per_token": round(seconds * 1e3, 2),
        "tokens_per_second": round(1 / seconds, 1),
        "share_of_copy_bandwidth": round(read / seconds / copy_bytes_per_second(context), 3),
    }


def _synchronise(context: Context) -> None:
    if context.on_cuda:
        torch.cuda.synchronize()


CHECKS = (Check(prefill, 25), Check(decode, 20))
