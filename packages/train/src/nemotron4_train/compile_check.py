"""Check that compiled blocks give the gradients of uncompiled ones, before a run trusts them.

torch.compile over tensor parallelism has given wrong gradients under losses that looked right. So each shape that such
a run trains on is tried first: the gradients of one micro-batch, compiled and uncompiled, are compared.

Invariant: every rank reaches the same verdict, and the check leaves no trace but the compiled code that training uses:
no gradients, and the weights, the optimiser, the random generators and the position in the data as they were.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nemotron4_model import DType
from nemotron4_model.parallel.recipe import blocks_uncompiled
from nemotron4_train.ranks import on_all_ranks, rank

TOLERANCE = {DType.fp32: 1e-4, DType.bf16: 0.2}
"""Norm of the difference over the norm of the gradient, by the dtype of the products. In fp32 the order of sums
differs: up to 1.2e-6 was measured in a small model of 16 layers, on CPUs. In bf16 the compiler leaves out the roundings
between operations that it fuses: up to 1.5 % of a gradient in the same model of 2 layers, 8 % in that of 16. Wrong
gradients were off by 27 % or more: a part of them was lost."""


@dataclass(frozen=True)
class Difference:
    """How far a gradient is from the uncompiled one, where that is worst."""

    name: str
    error: float
    """Relative to the norm of the gradient, for a part of it relative to the root mean square over all parts."""
    rank: int


def check_compiled_gradients(model: nn.Module, backward: Callable[[], object], dtype: DType) -> None:
    """Compare what `backward` adds to the gradients of `model`, which must have none; print a line.

    `dtype` is that of the products. Raises ValueError, on all ranks, when a gradient differs. A collective.
    """
    started = time.perf_counter()
    with blocks_uncompiled():
        expected = _gradients(model, backward)
    worst = compare(expected, _gradients(model, backward))
    limit = TOLERANCE[dtype]
    if not worst.error <= limit:  # nan is not
        raise ValueError(
            f"topology.compile (true): torch {torch.__version__} compiles a wrong gradient of {worst.name}, off by "
            f"{worst.error:.1e} of its norm on rank {worst.rank}, where rounding explains {limit:.0e} at most; "
            "set topology.compile=false"
        )
    if rank() == 0:
        print(
            f"compile check: {len(expected)} gradients agree within {limit:.0e} (worst {worst.name} {worst.error:.1e}),"
            f" in {time.perf_counter() - started:.1f} s",
            file=sys.stderr,
            flush=True,
        )


def _gradients(model: nn.Module, backward: Callable[[], object]) -> dict[str, Tensor]:
    """This rank's part of each gradient by name, in host memory; the model is left without gradients."""
    backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        gradients[name] = (found.to_local() if isinstance(found, DTensor) else found).detach().to("cpu", copy=True)
    model.zero_grad(set_to_none=True)
    return gradients


def compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Difference:
    """The worst of all gradients on all ranks, each of which passes its own parts. A collective.

    A part that is zero, but should not be, differs by at least 1 wherever it lies.
    """
    pairs = [(expected[name].float(), found[name].float()) for name in expected]
    norms_3P = torch.tensor(
        [
            [float((is_ - should_be).norm()) for should_be, is_ in pairs],
            [float(should_be.norm()) for should_be, _ in pairs],
            [float(should_be.any() and not is_.any()) for should_be, is_ in pairs],
        ],
        dtype=torch.float64,
    )
    difference_RP, norm_RP, lost_RP = torch.stack(on_all_ranks(lambda: norms_3P)).unbind(dim=1)
    # Relative to one part's own norm, the rounding of a part that is nearly zero would count as an error.
    typical_P = norm_RP.square().mean(dim=0).sqrt()
    error_RP = (difference_RP / typical_P).where((difference_RP != 0) | (typical_P != 0), 0.0).maximum(lost_RP)
    at_rank, at_name = divmod(int(error_RP.nan_to_num(torch.inf, torch.inf).argmax()), len(expected))
    return Difference(name=list(expected)[at_name], error=float(error_RP[at_rank, at_name]), rank=at_rank)
