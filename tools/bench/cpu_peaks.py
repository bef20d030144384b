"""Measure the figures of conf/machine/cpu.yaml: large matrix products, copies in memory, gloo between two ranks.

Each figure is the best of many attempts, since a peak is what nothing disturbed.

    python tools/bench/cpu_peaks.py --output tools/bench/results/cpu_peaks.json
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from machine import description, publish

_SIDE = 2_048
_BYTES = 1 << 28


def best_seconds(work: Callable[[], object], attempts: int) -> float:
    """The shortest of some calls, after one that warms up."""
    work()
    found = []
    for _ in range(attempts):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def product_teraflops(dtype: torch.dtype, attempts: int) -> float:
    """Of a square product."""
    left, right = (torch.randn(_SIDE, _SIDE).to(dtype) for _ in range(2))
    out = torch.empty(_SIDE, _SIDE, dtype=dtype)
    return 2 * _SIDE**3 / best_seconds(lambda: torch.mm(left, right, out=out), attempts) / 1e12


def copy_gigabytes_per_second(attempts: int) -> float:
    """Read and written together."""
    source, target = torch.zeros(_BYTES // 4), torch.zeros(_BYTES // 4)
    return 2 * _BYTES / best_seconds(lambda: target.copy_(source), attempts) / 1e9


def gather_gigabytes_per_second(attempts: int) -> float:
    """What a rank receives in an all-gather between two ranks on this machine."""
    with tempfile.TemporaryDirectory() as directory:
        context = torch.multiprocessing.get_context("spawn")
        results = context.SimpleQueue()
        arguments = (f"file://{directory}/meeting", attempts, results)
        ranks = [context.Process(target=_gather, args=(rank, *arguments)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        return float(results.get())


def _gather(rank: int, meeting: str, attempts: int, results: "torch.multiprocessing.SimpleQueue[float]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    part, whole = torch.zeros(_BYTES // 8), list(torch.zeros(_BYTES // 4).chunk(2))
    seconds = best_seconds(lambda: dist.all_gather(whole, part), attempts)
    if rank == 0:
        results.put(_BYTES / 2 / seconds / 1e9)
    dist.destroy_process_group()


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attempts", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    attempts = arguments.attempts
    document = {
        **description("torch", threads=arguments.threads),
        "what": f"best of {attempts}: products of {_SIDE}^3, copies and gathers of {_BYTES >> 20} MiB",
        "fp32_teraflops": round(product_teraflops(torch.float32, attempts), 4),
        "bf16_teraflops": round(product_teraflops(torch.bfloat16, attempts), 4),
        "copy_gigabytes_per_second": round(copy_gigabytes_per_second(attempts), 2),
        "gather_gigabytes_per_second": round(gather_gigabytes_per_second(attempts), 2),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
