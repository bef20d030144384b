"""What the machine is, which attention kernels are chosen, and how fast products and copies can be."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from nemotron4_infer import KVCache
from nemotron4_model import ModelConfig, Transformer, linear_cross_entropy

from .context import Context
from .frame import Check, Figures, require
from .models import build, copy_bytes_per_second, milliseconds, random_tokens, relative_error

_LIBRARIES = ("torch", "triton", "torchao", "lightning", "transformers", "numpy")
_REPEATS = 10


def versions(context: Context) -> Figures:
    """Versions of everything that decides speed or numbers."""
    figures: Figures = {"python": platform.python_version(), "device": context.machine.name}
    for name in _LIBRARIES:
        try:
            figures[name] = version(name)
        except PackageNotFoundError:
            figures[name] = "absent"
    if context.on_cuda:
        cudnn, nccl = torch.backends.cudnn.version(), ".".join(map(str, torch.cuda.nccl.version()))
        figures |= {"cuda": torch.version.cuda, "cudnn": cudnn, "nccl": nccl}
        figures |= {
            "capability": list(context.machine.capability),
            "gibibytes": round(context.machine.memory_bytes / 2**30, 1),
            "devices": context.machine.count,
        }
    return figures


def attention_kernels(context: Context) -> Figures:
    """The attention operator that each use of the model runs, deterministic and not; training must not fall to math."""
    config, dtype = context.sizes.slice, torch.bfloat16 if context.on_cuda else torch.float32
    model = build(context, config, bf16=context.on_cuda)
    plain = Transformer(config).to(device=context.device, dtype=dtype)
    tokens = random_tokens(config, context.sizes.slice_batch, context.sizes.slice_tokens, context.device)
    end = int(tokens[0, len(tokens[0]) // 3])
    figures: Figures = {}
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        suffix = " (deterministic)" if deterministic else ""
        uses: dict[str, Callable[[], object]] = {
            "training": partial(_train, model, tokens),
            "packed documents": partial(_train, model, tokens, end),
            "prefill": partial(_read, plain, tokens, dtype, 1),
            "one token": partial(_read, plain, tokens, dtype, 2),
        }
        for name, use in uses.items():
            try:
                figures[name + suffix] = _attention_operators(context, use)
            except RuntimeError as error:  # an operation that is not deterministic, or no kernel
                figures[name + suffix] = f"raised {error}"
    torch.use_deterministic_algorithms(False)
    raised = [name for name, found in figures.items() if isinstance(found, str)]
    require(not raised, f"these raised: {', '.join(raised)}", figures)
    if context.on_cuda:
        slow = [name for name in figures if name.startswith(("training", "packed")) and "math" in str(figures[name])]
        require(not slow, f"attention by the math kernel: {', '.join(slow)}", figures)
    return figures


def _train(model: Transformer, tokens: Tensor, end_of_document: int | None = None) -> None:
    model.zero_grad(set_to_none=True)
    model(tokens[:, :-1], tokens[:, 1:], end_of_document=end_of_document).mean.backward()


@torch.no_grad()
def _read(model: Transformer, tokens: Tensor, dtype: torch.dtype, passes: int) -> None:
    cache = KVCache(model.config, batch_size=len(tokens), dtype=dtype, device=tokens.device)
    for part in (tokens[:, :-1], tokens[:, -1:])[:passes]:
        model(part, position_BT=cache.positions(part.shape[1]), cache=cache, last_only=True)


def _attention_operators(context: Context, use: Callable[[], object]) -> list[str]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_cuda else [])]
    with profile(activities=activities) as profiler:
        use()
        if context.on_cuda:
            torch.cuda.synchronize()
    names = {event.key for event in profiler.key_averages()}
    found = {name for name in names if re.search(r"attention|varlen|fmha|flash", name, re.IGNORECASE)}
    return sorted(name[:90] for name in found if not name.startswith(("aten::scaled_dot", "autograd::")))


def ceilings(context: Context) -> Figures:
    """What a product and a copy reach, and the products of a block and of the head, in TFLOP/s, on random data."""
    sizes, dtype = context.sizes, torch.bfloat16 if context.on_cuda else torch.float32
    normal = partial(torch.randn, device=context.device, dtype=dtype)
    figures: Figures = {"gemm": _teraflops(context, normal(sizes.gemm, sizes.gemm), normal(sizes.gemm, sizes.gemm))}
    figures["copy_gigabytes_per_second"] = round(copy_bytes_per_second(context) / 1e9, 1)
    config, rows = sizes.train, sizes.micro_batch * sizes.train_tokens
    for name, (out, width) in _matrices(config).items():
        figures[name] = _three_products(context, normal(rows, width), normal(out, width))
    _, width, vocab = sizes.head
    for chunk in sizes.head_chunks:
        figures[f"head, {chunk} rows"] = _three_products(context, normal(chunk, width), normal(vocab, width))
    return figures


def _matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    width, inner = config.hidden_size, config.intermediate_size
    return {
        "qkv": (config.query_width + 2 * config.key_value_width, width),
        "out": (width, config.query_width),
        "up": (inner, width),
        "down": (width, inner),
    }


def _three_products(context: Context, x: Tensor, weight: Tensor) -> dict[str, float]:
    """TFLOP/s of the product, of the gradient of its input and of that of its weight."""
    y = x @ weight.T
    pairs = {"forward": (x, weight.T), "input_gradient": (y, weight), "weight_gradient": (y.T, x)}
    return {name: _teraflops(context, *pair) for name, pair in pairs.items()}


def _teraflops(context: Context, a: Tensor, b: Tensor) -> float:
    out = a.new_empty(a.shape[0], b.shape[1])
    spent = milliseconds(context, lambda: torch.mm(a, b, out=out), _REPEATS)
    return round(2 * a.shape[0] * a.shape[1] * b.shape[1] / spent / 1e9, 4)


def head_gradients(context: Context) -> Figures:
    """Gradients of the head's loss against fp64, with products that may sum in bf16 and not.

    The gradient of its input sums over the whole vocabulary.
    """
    rows, width, vocab = context.sizes.head
    rows = min(rows, 512)  # fp64 takes 8 bytes a logit
    generator = torch.Generator(context.device).manual_seed(0)
    draw: Any = partial(torch.randn, device=context.device, generator=generator)
    x, weight = draw(1, rows, width), draw(vocab, width) * 0.02
    targets = torch.randint(vocab, (1, rows), device=context.device, generator=generator)
    dtype = torch.bfloat16 if context.on_cuda else torch.float32
    x, weight = x.to(dtype), weight.to(dtype)
    wanted = _loss_gradients(lambda x, w, t: F.cross_entropy(x[0] @ w.T, t[0]), x.double(), weight.double(), targets)
    figures: Figures = {}
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    for reduced in (True, False):
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
        found = _loss_gradients(lambda x, w, t: linear_cross_entropy(x, w, t).mean, x, weight, targets)
        errors = [relative_error(*pair) for pair in zip(found, wanted, strict=True)]
        figures["reduced precision" if reduced else "full precision"] = dict(
            zip(("input", "weight"), errors, strict=True)
        )
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before
    tolerance = 1e-2 if context.on_cuda else 1e-5
    worst = max(figures["full precision"].values())  # as training computes
    require(worst <= tolerance, f"a gradient is {worst:.2g} off, more than {tolerance:g}", figures)
    return figures


def _loss_gradients(loss: Any, x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    loss(x, weight, targets).backward()
    assert x.grad is not None
    assert weight.grad is not None
    return x.grad, weight.grad


def cudnn_and_flash(context: Context) -> Figures:
    """Attention and its gradients by cuDNN's kernel and by flash attention's are near each other."""
    context.require_cuda("both are CUDA kernels")
    config, length = context.sizes.train, context.sizes.train_tokens
    outcomes, times = [], {}
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        generator = torch.Generator(context.device).manual_seed(0)
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        leaves = [
            torch.randn(
                (context.sizes.micro_batch, n, length, config.attention_head_dim),
                device=context.device, dtype=torch.bfloat16, generator=generator, requires_grad=True,
            )
            for n in heads
        ]  # fmt: skip

        def attend(leaves: list[Tensor] = leaves, backend: SDPBackend = backend) -> tuple[Tensor, ...]:
            with sdpa_kernel([backend]):
                y = F.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)
                return (y, *torch.autograd.grad(y, leaves, y.detach()))

        outcomes.append(attend())
        times[backend.name] = round(milliseconds(context, attend, _REPEATS), 2)
    errors = [relative_error(*pair) for pair in zip(*outcomes, strict=True)]
    figures: Figures = {"milliseconds": times, "errors_y_q_k_v": errors}
    require(max(errors) <= 2e-2, f"they differ by {max(errors):.2g}", figures)
    return figures


CHECKS = (
    Check(versions, 4),
    Check(attention_kernels, 10),
    Check(ceilings, 8),
    Check(head_gradients, 6),
    Check(cudnn_and_flash, 5),
)
