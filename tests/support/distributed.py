"""Run a function in several gloo processes, with a hard time limit: the way tests exercise parallel code.

The function is at module level of an importable file, takes (rank, world_size, *arguments), and what it returns
must be picklable; the values come back in rank order.
"""

import multiprocessing
import os
import pickle
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from forks import FORKS


def run_distributed(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout_seconds: float = 60, spawn: bool = False
) -> list[Any]:
    """Results by rank. Raises AssertionError with the first failing rank's traceback, or when time is up.

    `spawn` starts new interpreters, for environment variables that libraries read when they are imported.
    """
    context = multiprocessing.get_context("spawn") if spawn else FORKS
    results: Any = context.Queue()
    port = _free_port()
    processes = [
        context.Process(target=_worker, args=(function, rank, world_size, port, results, arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        return _collect(results, processes, time.monotonic() + timeout_seconds)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _collect(results: Any, processes: list[Any], deadline: float) -> list[Any]:
    values: dict[int, Any] = {}
    while len(values) < len(processes):
        assert time.monotonic() < deadline, f"ranks {sorted(set(range(len(processes))) - set(values))} did not finish"
        try:
            rank, value, error = pickle.loads(results.get(timeout=1))
        except queue.Empty:
            dead = [rank for rank, p in enumerate(processes) if rank not in values and p.exitcode not in (None, 0)]
            assert not dead, f"ranks {dead} died without a report"
            continue
        assert error is None, f"rank {rank} failed:\n{error}"
        values[rank] = value
    return [values[rank] for rank in range(len(processes))]


def _worker(function: Callable[..., Any], rank: int, world_size: int, port: int, results: Any, arguments: Any) -> None:
    os.environ.update(
        OMP_NUM_THREADS="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
    )
    import torch

    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
        value, error = function(rank, world_size, *arguments), None
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        value, error = None, traceback.format_exc()
    # Bytes, not tensors: torch would pass those by shared memory, which ends with this process.
    results.put(pickle.dumps((rank, value, error)))


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
