"""Time a linear layer in fp32 with torch's BLAS and with oneDNN (`nemotron4_model.kernels.linear`).

The two alternate at each size, forward only and with both gradients; a ratio is the median over rounds of BLAS to
oneDNN within a round, so above 1 oneDNN is faster.

    python tools/bench/cpu_linear.py --output tools/bench/results/cpu_linear.json
"""

import argparse
import math
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


def forward(product: Callable[..., Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Only the product."""
    with torch.no_grad():
        product(x, weight)


def forward_and_backward(product: Callable[..., Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> None:
    """The product and the gradients of both its factors."""
    torch.autograd.grad(product(x, weight), (x, weight), grad)


def measure(size: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Ratios at one size."""
    N, D, features = size
    tensors = torch.randn(N, D).requires_grad_(), torch.randn(features, D).requires_grad_(), torch.randn(N, features)
    assert kernel.onednn_is_faster(*tensors[:2]), "oneDNN is not used on this machine, or not with one thread"
    repeats = max(3, (1 << 31) // math.prod(size))
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
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bounds = {name: value for name, value in vars(kernel).items() if name.startswith("MIN_")}
    for name in bounds:
        setattr(kernel, name, 0)
    document = {
        **description("torch", threads=arguments.threads),
        "what": "seconds of F.linear over seconds of the same by oneDNN, fp32; median of rounds",
        "bounds_in_use": bounds,
        "rounds": arguments.rounds,
        "sizes": {
            f"{N} x {D} -> {features}": {
                "multiplications": N * D * features,
                **measure((N, D, features), arguments.rounds),
            }
            for N, D, features in SIZES
        },
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
