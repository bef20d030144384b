"""Compiled blocks and float8: every gradient as without, and few graphs."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from nemotron4_model import Recompute

from .context import Context
from .frame import Check, Figures, require
from .models import build, loss_and_gradients, random_tokens, relative_error, worst_gradient

_MAX_GRAPHS = 4
_LENGTHS = 12


def compiled_in_fp32(context: Context) -> Figures:
    """Compiled or not, with every kind of recomputation: the gradients of the plain model."""
    return _combinations(context, False, 1e-5)


def compiled_in_bf16(context: Context) -> Figures:
    """The same in bf16; compiled code rounds less often, so it differs by about as much as either does from fp64."""
    return _combinations(context, True, 2e-2)


def _combinations(context: Context, bf16: bool, tolerance: float) -> Figures:
    sizes = context.sizes
    tokens = random_tokens(sizes.slice, sizes.slice_batch, sizes.slice_tokens, context.device)
    wanted_loss, wanted = loss_and_gradients(build(context, sizes.slice, bf16=bf16), tokens)
    figures: Figures = {}
    for compiled in (False, True):
        for recompute in Recompute:
            torch.compiler.reset()
            model = build(context, sizes.slice, bf16=bf16, recompute=recompute, compiled=compiled)
            loss, found = loss_and_gradients(model, tokens)
            name, error = worst_gradient(found, wanted)
            variant = f"{'compiled' if compiled else 'eager'}, recompute {recompute.name}"
            figures[variant] = {"loss": abs(loss - wanted_loss) / wanted_loss, "gradient": error, "of": name}
    wrong = [name for name, errors in figures.items() if max(errors["loss"], errors["gradient"]) > tolerance]
    require(not wrong, f"off by more than {tolerance:g}: {'; '.join(wrong)}", figures)
    return figures


def validation_lengths(context: Context) -> Figures:
    """Validation of many lengths between compiled steps needs no more graphs."""
    sizes = context.sizes
    torch.compiler.reset()
    counters.clear()
    model = build(context, sizes.slice, bf16=context.on_cuda, compiled=True)
    tokens = random_tokens(sizes.slice, sizes.slice_batch, sizes.slice_tokens, context.device)
    before, _ = loss_and_gradients(model, tokens)
    for number in range(_LENGTHS):
        part = tokens[:, : sizes.slice_tokens - 3 * number + 1]
        with torch.no_grad():
            nll = model.eval()(part[:, :-1], part[:, 1:]).nll_BT
        model.train()
        require(bool(nll.isfinite().all()), f"losses of length {nll.shape[1]} are not finite")
    after, _ = loss_and_gradients(model, tokens)
    figures = {"graphs": counters["stats"]["unique_graphs"], "lengths": _LENGTHS}
    require(0 < figures["graphs"] <= _MAX_GRAPHS, f"{figures['graphs']} graphs", figures)
    require(abs(after - before) <= 1e-5 * before, f"the loss was {before} and is {after}", figures)
    return figures


def float8(context: Context) -> Figures:
    """Float8 products: compiled as not, near bf16, and really in float8."""
    context.require_float8()
    sizes = context.sizes
    tokens = random_tokens(sizes.slice, sizes.slice_batch, sizes.slice_tokens, context.device)
    bf16_loss, bf16 = loss_and_gradients(build(context, sizes.slice, bf16=True), tokens)
    losses, gradients, names = {}, {}, set[str]()
    for compiled in (False, True):
        torch.compiler.reset()
        model = build(context, sizes.slice, bf16=True, float8=True, compiled=compiled)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            losses[compiled], gradients[compiled] = loss_and_gradients(model, tokens)
        names |= {event.key for event in profiler.key_averages()}
    between = {name: relative_error(gradients[True][name], wanted) for name, wanted in gradients[False].items()}
    apart = {name: relative_error(gradients[True][name], wanted) for name, wanted in bf16.items()}
    figures = {
        "losses": {"bf16": bf16_loss, "float8": losses[False], "float8 compiled": losses[True]},
        "compiled_from_eager": max(between.values()),
        "from_bf16": max(apart.values()),
        "from_bf16_worst": max(apart, key=lambda name: apart[name]),
    }
    require(any("_scaled_mm" in name for name in names), "no product was in float8", figures)
    require(abs(losses[True] - losses[False]) <= 1e-2 * losses[False], "compiled and eager losses differ", figures)
    require(figures["from_bf16"] < 0.15, "a gradient is far from bf16's", figures)
    return figures


CHECKS = (
    Check(compiled_in_fp32, 25),
    Check(compiled_in_bf16, 25),
    Check(validation_lengths, 10),
    Check(float8, 20),
)
