"""Steps of the 1.75B model: time of a micro-batch and of the optimiser, memory, MFU, and where the time goes."""

from __future__ import annotations

import json
import math
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from nemotron4_model import Transformer, begin_micro_batch, global_grad_norm_and_clip, linear_cross_entropy
from nemotron4_train.job import OptimizerConfig
from nemotron4_train.machine import machine_of
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.reporting.mfu import NAME, Utilisation

from .context import Context
from .frame import Check, Figures, require
from .models import build, milliseconds, random_tokens

_WARM_STEPS, _KERNELS = 2, 15


def eager_deterministic(context: Context) -> Figures:
    """Not compiled, with trainer.deterministic."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as training does
    return _steps(context, "eager_deterministic")


def eager(context: Context) -> Figures:
    """Not compiled."""
    return _steps(context, "eager")


def compiled(context: Context) -> Figures:
    """Compiled; the profile is of this one."""
    return _steps(context, "compiled", compiled=True, profiled=True)


def compiled_float8(context: Context) -> Figures:
    """Compiled, with float8 products in the blocks."""
    context.require_float8()
    return _steps(context, "compiled_float8", compiled=True, float8=True)


class _Step:
    """One optimiser step as training takes it, on the same tokens every time."""

    def __init__(self, context: Context, model: Transformer) -> None:
        sizes = context.sizes
        self.context, self.model = context, model
        self.optimizers = build_optimizers(model, OptimizerConfig())
        self.micro_batches = [
            random_tokens(sizes.train, sizes.micro_batch, sizes.train_tokens, context.device, seed)
            for seed in range(sizes.micro_batches)
        ]
        self.losses: list[torch.Tensor] = []

    def accumulate(self) -> None:
        """Forward and backward of every micro-batch."""
        last = len(self.micro_batches) - 1
        for index, tokens in enumerate(self.micro_batches):
            begin_micro_batch(self.model, is_last=index == last, reshard=False)
            loss = self.model(tokens[:, :-1], tokens[:, 1:]).mean
            (loss / (last + 1)).backward()
            self.losses.append(loss.detach())

    def update(self) -> None:
        """Clip, and step the optimisers."""
        global_grad_norm_and_clip(self.model, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _steps(
    context: Context, name: str, compiled: bool = False, float8: bool = False, profiled: bool = False
) -> Figures:
    sizes = context.sizes
    model = build(context, sizes.train, bf16=context.on_cuda, compiled=compiled, float8=float8, draw_here=True)
    step = _Step(context, model)
    for _ in range(_WARM_STEPS):
        step.accumulate()
        step.update()
    times = _timed(step, sizes.timed_steps)
    seconds = (times["micro_batches"] + times["optimizer"]) / 1e3
    tokens_per_second = sizes.micro_batch * sizes.micro_batches * sizes.train_tokens / seconds
    machine = machine_of(context.machine.name)
    peak = None if machine is None else machine.peak_teraflops["bf16"]
    utilisation = Utilisation(model=sizes.train, num_devices=1, peak_teraflops=peak)
    mfu = utilisation.mfu(tokens_per_second, sizes.train_tokens)
    figures: Figures = {
        "milliseconds_per_micro_batch": round(times["micro_batches"] / sizes.micro_batches, 2),
        "optimizer_milliseconds": round(times["optimizer"], 2),
        "micro_batch": [sizes.micro_batch, sizes.train_tokens],
        "micro_batches": sizes.micro_batches,
        "tokens_per_second": round(tokens_per_second),
        "mfu": None if mfu is None else round(mfu, 4),
        "mfu_convention": f"{NAME}, whole step, of {utilisation.peak_teraflops} TFLOP/s",
        "first_loss": step.losses[0].item(),
        "last_loss": step.losses[-1].item(),
    }
    if context.on_cuda:
        figures["peak_gibibytes"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    if profiled:
        figures["profile"] = _profile(step)
    _require_same_losses(context, name, figures)
    return figures


def _timed(step: _Step, count: int) -> dict[str, float]:
    """Milliseconds a step of both halves."""
    spent = {"micro_batches": 0.0, "optimizer": 0.0}
    for _ in range(count):
        spent["micro_batches"] += _once(step.context, step.accumulate)
        spent["optimizer"] += _once(step.context, step.update)
    return {name: total / count for name, total in spent.items()}


def _once(context: Context, work: object) -> float:
    assert callable(work)
    done = False

    def second_time() -> None:
        nonlocal done
        if done:
            work()
        done = True

    return milliseconds(context, second_time, 1)


def _profile(step: _Step) -> list[dict[str, object]]:
    """The kernels that take longest in one step: name, calls, milliseconds and share of all."""
    activity = ProfilerActivity.CUDA if step.context.on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        step.accumulate()
        step.update()
        if step.context.on_cuda:
            torch.cuda.synchronize()

    def time_of(event: object) -> float:
        found: float = event.self_device_time_total if step.context.on_cuda else event.self_cpu_time_total  # type: ignore[attr-defined]  # torch's
        return found

    events = sorted(profiler.key_averages(), key=time_of, reverse=True)
    total = sum(map(time_of, events)) or 1.0
    return [
        {
            "kernel": event.key[:120],
            "calls": event.count,
            "milliseconds": round(time_of(event) / 1e3, 2),
            "share": round(time_of(event) / total, 4),
        }
        for event in events[:_KERNELS]
    ]


def _require_same_losses(context: Context, name: str, figures: Figures) -> None:
    """Every variant trains the same model: losses within 2 % of those of the first one measured."""
    path = context.scratch / "losses.json"
    losses = [figures["first_loss"], figures["last_loss"]]
    require(all(map(math.isfinite, losses)), "a loss is not finite", figures)
    if not path.is_file():
        path.write_text(json.dumps([name, losses]), encoding="utf-8")
        return
    other, wanted = json.loads(path.read_text(encoding="utf-8"))
    apart = max(abs(mine - theirs) / theirs for mine, theirs in zip(losses, wanted, strict=True))
    require(apart <= 0.02, f"losses {losses} are not those of {other}, {wanted}", figures)


def head_alone(context: Context) -> Figures:
    """Loss and gradients of the head, by the rows of a chunk: milliseconds for the rows of a micro-batch."""
    sizes, config = context.sizes, context.sizes.train
    dtype = torch.bfloat16 if context.on_cuda else torch.float32
    rows = sizes.micro_batch * sizes.train_tokens
    x = torch.randn(1, rows, config.hidden_size, device=context.device, dtype=dtype, requires_grad=True)
    weight = torch.empty(config.vocab_size, config.hidden_size, device=context.device, dtype=dtype)
    weight = weight.normal_(0.0, 0.0134).requires_grad_()
    targets = torch.randint(config.vocab_size, (1, rows), device=context.device)

    def work(chunk: int | None) -> None:
        x.grad = weight.grad = None
        linear_cross_entropy(x, weight, targets, chunk_tokens=chunk).mean.backward()

    found = {str(chunk or "default"): milliseconds(context, partial(work, chunk), 3) for chunk in _chunks(context)}
    return {"milliseconds_by_chunk": {name: round(value, 2) for name, value in found.items()}}


def _chunks(context: Context) -> list[int | None]:
    return [None, *context.sizes.head_chunks]


EAGER_DETERMINISTIC = (Check(eager_deterministic, 22),)
EAGER = (Check(eager, 22),)
COMPILED = (Check(compiled, 45),)
COMPILED_FLOAT8 = (Check(compiled_float8, 55),)
HEAD = (Check(head_alone, 8),)
