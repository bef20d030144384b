"""Where requests are computed: in this process, or in several, on the CPU or one for each GPU.

Invariant: the layout of batches is made by the caller, so the number of processes does not change what is computed
together when scoring, and each text is the one of its prompt alone.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import current_process
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from nemotron4_data import Tokenizer
from nemotron4_data.executor import LocalExecutor
from nemotron4_eval.harness.decoding import Generated, Generator, Prompt
from nemotron4_eval.harness.packing import Batch
from nemotron4_eval.harness.scoring import Score, Scorer
from nemotron4_infer.engine.build import default_device
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.model_directory import check_model_directory, load_tokenizer
from nemotron4_infer.weights.engine_weights import EngineWeights
from nemotron4_infer.weights.load import load_engine_weights, resolve_dtype, resolve_quantization
from nemotron4_infer.weights.packed import pack
from nemotron4_model import DType, load_config

T = TypeVar("T")
R = TypeVar("R")

PROMPTS_PER_TASK = 256
"""Prompts that a process takes at once: the last of them run alone, so not too few; others wait, so not too many."""


class Workers(Protocol):
    """Computes requests."""

    def score(self, batches: Sequence[Batch]) -> Iterator[list[Score]]:
        """Of each batch, in order."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generated]]:
        """(index, text) of each prompt, as they end."""


class ThisProcess:
    """Weights that are loaded."""

    def __init__(self, weights: EngineWeights, tokenizer: Tokenizer, *, processes: int = 1) -> None:
        self._weights, self._tokenizer, self._processes = weights, tokenizer, processes
        self._scorer = Scorer(weights)
        self._generator: Generator | None = None

    def score(self, batches: Sequence[Batch]) -> Iterator[list[Score]]:
        """Of each batch, in order."""
        return map(self._scorer.score, batches)

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generated]]:
        """(index, text) of each prompt, as they end."""
        if self._generator is None:  # only now, as its keys and values take memory
            self._generator = Generator(self._weights, self._tokenizer, processes=self._processes)
        return self._generator.generate(prompts)


@dataclass(frozen=True)
class ModelSource:
    """A model directory and how to load it."""

    directory: str
    dtype: DType
    quantization: Quantisation | None
    processes: int = 1
    """Processes that load it on this machine, each GPU by one of them."""

    @classmethod
    def check(
        cls, directory: str, dtype: DType | None, quantization: Quantisation | None, processes: int
    ) -> "ModelSource":
        """ValueError, one line, if there is no model that can be loaded so."""
        check_model_directory(Path(directory))
        quantization = resolve_quantization(directory, quantization)
        return cls(directory, resolve_dtype(dtype, default_device(), quantization), quantization, processes)

    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return load_tokenizer(Path(self.directory), load_config(self.directory).vocab_size)

    def load(self, device: torch.device) -> ThisProcess:
        """The model on a device."""
        weights = load_engine_weights(
            self.directory, dtype=self.dtype.torch_dtype, device=device, quantization=self.quantization, make=pack
        )
        return ThisProcess(weights, self.tokenizer(), processes=self.processes)


class Processes:
    """Several processes, each with the whole model. They end with this one."""

    def __init__(self, source: ModelSource) -> None:
        self._source, self._executor = source, LocalExecutor(source.processes)

    def score(self, batches: Sequence[Batch]) -> Iterator[list[Score]]:
        """Of each batch, in order."""
        return self._map(partial(_score, self._source), batches)

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generated]]:
        """(index, text) of each prompt, task by task."""
        size = min(PROMPTS_PER_TASK, -(-len(prompts) // self._source.processes))
        # Prompts that begin alike go to one process, which computes their beginning once.
        order = sorted(range(len(prompts)), key=lambda index: prompts[index].token_ids)
        parts = [order[begin : begin + size] for begin in range(0, len(order), size)]
        tasks = [[prompts[index] for index in part] for part in parts]
        for part, found in zip(parts, self._map(partial(_generate, self._source), tasks), strict=True):
            yield from ((part[index], generated) for index, generated in found)

    def _map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        try:
            yield from self._executor.map(function, tasks)
        except OSError as error:
            if isinstance(error.__cause__, BrokenProcessPool):
                raise OSError(
                    f"processes ({self._source.processes}): one was killed, perhaps for lack of memory; ask for fewer"
                ) from error
            raise


def _score(source: ModelSource, batch: Batch) -> list[Score]:
    return next(_loaded(source).score([batch]))


def _generate(source: ModelSource, prompts: Sequence[Prompt]) -> list[tuple[int, Generated]]:
    return list(_loaded(source).generate(prompts))


@cache
def _loaded(source: ModelSource) -> ThisProcess:
    """In a worker process: its model, on a GPU of its own if there are any."""
    if torch.cuda.is_available():
        number = current_process()._identity[-1]  # consecutive for the workers of one pool
        device = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return source.load(device)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // source.processes))
    return source.load(torch.device("cpu"))
