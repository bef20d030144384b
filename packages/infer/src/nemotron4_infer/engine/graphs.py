"""CUDA graphs of the decoding step: one for each size of a ladder, captured when it is first needed.

A graph replays the kernels of a step on fixed addresses without Python. A step of fewer rows than its graph is filled
up with rows that read and write a scratch page. What cannot be captured runs eagerly, after one line in the log.

None of this has run on a GPU. On a CPU tests put a recorder of operators in the place of `capture_cuda`.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Work = Callable[[], Tensor]
Capture = Callable[[Work], Work]
"""Records what a function does; the result does it again and gives the same tensor, with new values."""

_log = logging.getLogger(__name__)


def ladder(most: int) -> list[int]:
    """Sizes 1, 2, 4, 8, then multiples of 8, up to the first that holds `most` rows."""
    sizes = [1, 2, 4, *range(8, most + 8, 8)]
    return [size for size, smaller in zip(sizes, [0, *sizes], strict=False) if smaller < most]


def next_size(sizes: list[int], count: int) -> int | None:
    """The first size that holds `count`; None if none does."""
    return next((size for size in sizes if size >= count), None)


class CudaCapture:
    """Graphs that share memory: the result of one is valid until another is replayed."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Work) -> Work:
        """Run the work twice, once to let libraries set themselves up and once to record it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a server's, may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        self._pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class Graphs:
    """Recorded steps by their key."""

    def __init__(self, capture: Capture | None) -> None:
        """`capture` None runs everything eagerly."""
        self._capture = capture
        self._recorded: dict[tuple[int, int], Work] = {}

    def run(self, key: tuple[int, int], work: Work) -> Tensor:
        """The result of `work`, by the graph of this key. Work of one key must be the same on the same tensors."""
        replay = self._recorded.get(key)
        if replay is None:
            if self._capture is None:
                return work()
            try:
                replay = self._capture(work)
            except RuntimeError as error:
                self._capture = None
                _log.warning("decoding runs without CUDA graphs from here on: %s", str(error).splitlines()[0])
                return work()
            self._recorded[key] = replay
        return replay()
