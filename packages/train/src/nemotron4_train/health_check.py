"""Check the machines before training: each rank computes a product, and all of them a sum, whose results are known.

A device that computes wrongly, or a GPU far slower than the others, costs a large run more than a few seconds here.
Invariant: every rank reaches the same verdict, so either all of them stop or none.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from nemotron4_train.ranks import num_ranks, on_all_ranks, rank
from nemotron4_train.topology import Device, TopologyConfig

_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class RankHealth:
    """What one rank found."""

    host: str
    teraflops: float
    """Speed of the product, in 1e12 floating-point operations per second."""
    product_is_right: bool
    gigabytes_per_second: float
    """Bytes of the reduced tensor per second, in 1e9."""
    sum_is_right: bool


def check_health(topology: TopologyConfig, max_slowdown: float) -> None:
    """Measure all ranks and print a line; raises RuntimeError naming the nodes to exclude. A collective."""
    started = time.perf_counter()
    on_gpu = topology.device is Device.cuda
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    products = on_all_ranks(lambda: _time_product(device))
    gigabytes_per_second, sum_is_right = _time_sum(device)
    ranks = on_all_ranks(
        lambda: RankHealth(
            host=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            teraflops=products[rank()][0],
            product_is_right=products[rank()][1],
            gigabytes_per_second=gigabytes_per_second,
            sum_is_right=sum_is_right,
        )
    )
    if rank() == 0:
        print(f"health check: {summary(ranks)}, in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    if bad := unhealthy(ranks, max_slowdown if on_gpu else math.inf):
        nodes = ",".join(dict.fromkeys(line.split(":")[0] for line in bad))
        raise RuntimeError(
            f"health check: {'; '.join(bad)}; exclude the node with launcher.exclude=[{nodes}],"
            " or skip the check with launcher.health_check=false"
        )


def unhealthy(ranks: Sequence[RankHealth], max_slowdown: float) -> list[str]:
    """What is wrong, one line per rank as `host: rank N ...`; empty when all is well."""
    usual = median(found.teraflops for found in ranks)
    bad = []
    for number, found in enumerate(ranks):
        if not found.product_is_right:
            bad.append(f"{found.host}: rank {number} computes a matrix product wrongly")
        elif not found.sum_is_right:
            bad.append(f"{found.host}: rank {number} received a wrong sum")
        elif found.teraflops * max_slowdown < usual:
            bad.append(f"{found.host}: rank {number} does {found.teraflops:.3g} TFLOP/s, the median is {usual:.3g}")
    return bad


def summary(ranks: Sequence[RankHealth]) -> str:
    """All ranks on one line."""
    speeds = [found.teraflops for found in ranks]
    slowest = min(ranks, key=lambda found: found.teraflops)
    return (
        f"{len(ranks)} ranks on {len({found.host for found in ranks})} nodes, product {median(speeds):.3g} TFLOP/s"
        f" (slowest {slowest.teraflops:.3g} on {slowest.host}),"
        f" all-reduce {min(found.gigabytes_per_second for found in ranks):.3g} GB/s"
    )


def _time_product(device: torch.device) -> tuple[float, bool]:
    """(TFLOP/s, whether it is right). Rows of ones times columns of halves: every sum is exact in any order."""
    size, dtype = (8_192, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    left = torch.ones(size, size, dtype=dtype, device=device)
    right = torch.full((size, size), 0.5, dtype=dtype, device=device)
    product = left @ right
    _finish(device)
    started = time.perf_counter()
    for _ in range(_REPEATS):
        product = left @ right
    _finish(device)
    seconds = (time.perf_counter() - started) / _REPEATS
    return 2 * size**3 / seconds / 1e12, bool((product == size / 2).all())


def _time_sum(device: torch.device) -> tuple[float, bool]:
    """(gigabytes reduced per second, whether the sum is right); the first sum only makes the connections."""
    dist.all_reduce(torch.ones(1, device=device))
    shared = torch.ones(2**26 if device.type == "cuda" else 2**18, device=device)
    _finish(device)
    started = time.perf_counter()
    dist.all_reduce(shared)
    _finish(device)
    seconds = time.perf_counter() - started
    return shared.numel() * shared.element_size() / seconds / 1e9, bool((shared == num_ranks()).all())


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
