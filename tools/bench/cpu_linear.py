"""Time a linear layer in fp32 with torch's BLAS and with oneDNN (`nemotron4_model.kernels.linear`).

The two alternate at each size, forward only and with both gradients; a ratio is the median over rounds of BLAS to
oneDNN within a round, so above 1 oneDNN is faster. Where "uses_onednn" is false, the kernel leaves it to BLAS.

    python tools/bench/cpu_linear.py --output tools/bench/results/cpu_linear.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import description, publish
from torch import Tensor

from nemotron4_model.kernels import linear as kernel

SIZES = [
    (N, *DF)
    for N in (256, 512, 1_024, 2_048, 4_096)
    for DF in ((128, 384), (256, 256), (256, 512), (256, 1_024), (1_024, 256), (512, 2_048), (768, 3_072))
]
"""Rows, features in and features out."""
WORK = 1 << 31
"""Multiplications of a turn, at least."""


def forward(product: Callable[..., Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Only the product."""
    with torch.no_grad():
        product(x, weight)


def forward_and_backward(product: Callable[..., Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> None:
    """The product and the gradients of both its factors."""
    torch.autograd.grad(product(x, weight), (x, weight), grad)


def uses_onednn(size: tuple[int, int, int]) -> dict[str, bool]:
    """Whether the kernel chooses oneDNN, by work, where it does at all; to be asked while its bounds are its own."""
    N, D, features = size
    x, weight = torch.empty(N, D), torch.empty(features, D)
    with torch.no_grad():
        is_forward = kernel.onednn_is_faster(x, weight)
    return {
        "forward_uses_onednn": is_forward,
        "forward_and_backward_uses_onednn": kernel.onednn_is_faster(x, weight),
    }


def measure(size: tuple[int, int, int], rounds: int, repeats: int) -> dict[str, float]:
    """Ratios at one size."""
    N, D, features = size
    tensors = torch.randn(N, D).requires_grad_(), torch.randn(features, D).requires_grad_(), torch.randn(N, features)
    assert kernel.onednn_is_faster(*tensors[:2]), "oneDNN is not used on this machine, or not with one thread"
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for work in (forward, forward_and_backward):
            seconds = []
            for product in (F.linear, kernel.linear):
                start = time.perf_counter()
                for _ in range(repeats):
                    work(product, *tensors)
                seconds.append(time.perf_counter() - start)
            ratios.setdefault(work.__name__, []).append(seconds[0] / seconds[1])
    return {name: round(statistics.median(of_rounds[1:]), 3) for name, of_rounds in ratios.items()}


def main() -> None:
    """Measure every size; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, help="of a product; by default so that a turn takes a while")
    parser.add_argument("--size", nargs=3, type=int, metavar=("N", "D", "F"), help="only this one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = [tuple(arguments.size)] if arguments.size else SIZES
    is_intel, kernel.is_intel = kernel.is_intel(), lambda: False
    uses = {size: uses_onednn(size) for size in sizes}
    bounds = {name: value for name, value in vars(kernel).items() if name.startswith("MIN_")}
    for name in bounds:
        setattr(kernel, name, 0)
    document = {
        **description("torch", threads=arguments.threads),
        "what": "seconds of F.linear over seconds of the same by oneDNN, fp32; median of rounds",
        "bounds_in_use": bounds,
        "uses_onednn_on_this_machine": not is_intel,
        "rounds": arguments.rounds,
        "sizes": {
            f"{N} x {D} -> {features}": {
                "multiplications": N * D * features,
                **uses[N, D, features],
                **measure((N, D, features), arguments.rounds, arguments.repeats or max(1, WORK // (N * D * features))),
            }
            for N, D, features in sizes
        },
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
