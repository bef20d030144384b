"""The engine's step at the 15B's shape, with random weights: graphs over pages, in every format of the weights.

Goals are those of one H100, of published figures for other models and of what memory can deliver; none is measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.graphs import Capture, CudaCapture
from nemotron4_infer.engine.paged import CudaRunner
from nemotron4_infer.engine.paged_attention import KERNEL_PAGE_TOKENS, Gathered, PagedVarlen, choose_attention
from nemotron4_infer.engine.pointwise import EAGER, compiled
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.engine_weights import EngineWeights, from_transformer
from nemotron4_infer.weights.linear import LinearOperator, PlainLinear
from nemotron4_model import Transformer

from .context import Context
from .frame import Check, Figures, NotApplicableError, require
from .models import copy_bytes_per_second, draw_weights, milliseconds, relative_error

_PAGE_TOKENS = KERNEL_PAGE_TOKENS


def captures(context: Context) -> Figures:
    """Whether the paged kernel is right, and whether a graph of it reads lengths and tables that change later."""
    N, K, H = 48, 8, 128
    device, dtype = torch.device(context.device), torch.bfloat16
    kernel = choose_attention(device, dtype, (N, K, H), _PAGE_TOKENS, None)
    generator = torch.Generator().manual_seed(3)
    pools = [torch.randn(12, _PAGE_TOKENS, K, H, generator=generator).to(device, dtype) for _ in range(2)]
    q = torch.randn(3, N, H, generator=generator).to(device, dtype)
    table = torch.arange(9, dtype=torch.int32).view(3, 3).to(device)
    length = torch.tensor([1, 300, 700], dtype=torch.int32, device=device)
    with torch.inference_mode():
        # On a CPU, a recorder of operators takes the place of the graph.
        capture: Capture = CudaCapture() if context.on_cuda else lambda work: make_fx(work)()
        replay = capture(lambda: kernel.single(q, pools[0], pools[1], table, length))
        table.copy_(table.flip(0) + 1)
        length.copy_(torch.tensor([513, 2, 257]))
        error = relative_error(replay(), Gathered().single(q, pools[0], pools[1], table, length))
    figures: dict[str, Any] = {"kernel": type(kernel).__name__, "error": error}
    require(error < 0.02, f"a graph of attention is {error:.2g} off", figures)
    has_kernel = not context.on_cuda or isinstance(kernel, PagedVarlen) or torch.__version__ < "2.13"
    require(has_kernel, "torch's kernel is not taken; the log says why", figures)
    return figures


@functools.cache
def _transformer(context: Context) -> Transformer:
    if context.on_cuda and context.machine.is_small:
        raise NotApplicableError("the weights take 31 GB, and this GPU has less than 60 GiB")
    with torch.device("meta"):
        model = Transformer(context.sizes.infer).to(torch.bfloat16)
    model = model.to_empty(device=context.device).eval()
    draw_weights(model)
    return model


def _weights(context: Context, quantization: Quantisation | None) -> EngineWeights:
    return from_transformer(_transformer(context), functools.partial(_linear, quantization))


def _linear(quantization: Quantisation | None, weight_FD: Tensor) -> LinearOperator:
    if quantization is None:
        return PlainLinear(weight_FD)
    try:
        from nemotron4_infer.weights.formats import stored_parts
        from nemotron4_infer.weights.quantised import quantise_rows, quantised_linear
    except ImportError as error:
        raise NotApplicableError(f"quantised weights are not available: {error}") from error
    name, shape = "head.weight", weight_FD.shape
    if stored_parts(quantization, name, shape) is None:
        return PlainLinear(weight_FD)
    rows = quantise_rows(quantization, name, shape, lambda part: weight_FD[part].float(), weight_FD.device)
    return quantised_linear(quantization, rows)


def _runner(context: Context, weights: EngineWeights, sequences: int, tokens: int, **options: Any) -> CudaRunner:
    """With so many open sequences of so many tokens, whose keys and values are zeros."""
    pages = -(-tokens // _PAGE_TOKENS)
    attention = None if context.on_cuda else Gathered()
    runner = CudaRunner(weights, sequences * pages, sequences, page_tokens=_PAGE_TOKENS, attention=attention, **options)
    for sequence in range(sequences):
        runner.open(sequence, tokens, range(sequence * pages, (sequence + 1) * pages), 0)
    return runner


def _decode(context: Context, quantization: Quantisation | None = None, is_compiled: bool = True) -> Figures:
    """Tokens one by one: the step, the choice of the most likely token, and its way to the host."""
    weights, sizes = _weights(context, quantization), context.sizes
    pointwise = compiled() if is_compiled and context.on_cuda else EAGER
    cases = ((1, sizes.decode_contexts[0]), (sizes.decode_batch, sizes.decode_contexts[-1]))
    figures = {}
    for sequences, length in cases:
        runner = _runner(context, weights, sequences, length + sizes.decode_tokens + 1, pointwise=pointwise)
        figures[f"{sequences} x {length}"] = _speed(context, weights, runner, sequences, length)
        del runner  # before the next allocates its pool
    return figures


def _speed(context: Context, weights: EngineWeights, runner: CudaRunner, sequences: int, length: int) -> Figures:
    ids = [0] * sequences
    ids = _step(runner, ids, length)
    start, count = time.perf_counter(), context.sizes.decode_tokens
    for position in range(length + 1, length + 1 + count):
        ids = _step(runner, ids, position)
    seconds = (time.perf_counter() - start) / count
    linears = [each for b in weights.blocks for each in (b.qkv, b.out, b.up, b.down)]
    read = sum(each.num_bytes for each in (*linears, weights.head))
    read += sequences * (length + count // 2) * weights.config.key_value_bytes_per_token(2)
    return {
        "milliseconds_per_token": round(seconds * 1e3, 2),
        "tokens_per_second": round(sequences / seconds, 1),
        "share_of_copy_bandwidth": round(read / seconds / copy_bytes_per_second(context), 3),
    }


def _step(runner: CudaRunner, ids: Sequence[int], position: int) -> list[int]:
    spans = [Span(sequence, position, [token], 1, False) for sequence, token in enumerate(ids)]
    logits_SV = torch.cat(runner.run(spans))
    chosen: list[int] = logits_SV.argmax(-1).tolist()
    return chosen


def decode_eager(context: Context) -> Figures:
    """bf16, the small operations one by one."""
    return _decode(context, is_compiled=False)


def decode_compiled(context: Context) -> Figures:
    """bf16, the small operations compiled, which must give the same logits."""
    weights, logits = _weights(context, None), []
    for pointwise in (EAGER, compiled()):
        runner = _runner(context, weights, 1, 8, pointwise=pointwise)
        logits.append(runner.run([Span(0, 0, [5, 6, 7], 1, True)])[0].float())
        del runner
    error = relative_error(logits[1], logits[0])
    require(error < 0.05, f"compiled, logits are {error:.2g} off", {"error": error})
    return _decode(context)


def decode_int8(context: Context) -> Figures:
    """int8 weights."""
    return _decode(context, Quantisation.int8)


def decode_int4(context: Context) -> Figures:
    """int4 weights in groups of 128."""
    return _decode(context, Quantisation.int4)


def decode_fp8(context: Context) -> Figures:
    """fp8 weights and products."""
    if context.on_cuda and context.machine.capability < (8, 9):
        raise NotApplicableError("this GPU does not multiply fp8")
    return _decode(context, Quantisation.fp8)


def prefill(context: Context) -> Figures:
    """A prompt in one step, with the logits of its last token."""
    weights, length = _weights(context, None), context.sizes.decode_contexts[-1]
    runner = _runner(context, weights, 1, length, pointwise=compiled() if context.on_cuda else EAGER)
    span = Span(0, 0, [0] * length, 1, True)
    spent = milliseconds(context, lambda: runner.run([span]), 3)
    config = weights.config
    # Forward is a third of training's operations; all logits but one are left out.
    flops = config.flops_per_token(length, causal=True) / 3 * length
    flops -= 2 * (length - 1) * config.vocab_size * config.hidden_size
    return {
        str(length): {
            "milliseconds": round(spent, 2),
            "tokens_per_second": round(length / spent * 1e3),
            "teraflops": round(flops / spent / 1e9, 2),
        }
    }


def equal_bits(context: Context) -> Figures:
    """With engine.equal_bits a row's logits alone are those beside others, bit by bit; and what that costs a step."""
    weights, batch = _weights(context, None), context.sizes.decode_batch
    length = context.sizes.decode_contexts[0]
    runner = _runner(context, weights, batch, length + 2, equal_bits=True)
    ids = [(7 * row) % weights.config.vocab_size for row in range(batch)]
    together = runner.run([Span(row, length, [token], 1, False) for row, token in enumerate(ids)])[0].clone()
    alone = runner.run([Span(0, length, ids[:1], 1, False)])[0]
    require(torch.equal(together, alone), "bits differ alone and beside others")
    spent = milliseconds(context, _one_row(runner, length), 5)
    return {"milliseconds_of_one_row": round(spent, 2), "rows": batch}


def _one_row(runner: CudaRunner, position: int) -> Callable[[], object]:
    return lambda: runner.run([Span(0, position, [1], 1, False)])


CHECKS = (
    Check(captures, 4),
    Check(decode_eager, 10),
    Check(decode_compiled, 25),
    Check(prefill, 6),
    Check(decode_int4, 12),
    Check(decode_fp8, 12),
    Check(decode_int8, 12),
    Check(equal_bits, 6),
)
