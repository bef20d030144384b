"""Time random access to the order of samples, near and far, and compare data loading with the speed of training.

The corpus is random tokens in shards on disk (memory-mapped, in the page cache), one shard for each of 104 sources,
blended as in conf/blend/nemotron4.yaml; far samples come from later epochs of the same shards. Loading works as in a
training run: StepDataset through a DataLoader with one worker.

    python tools/bench/data_order.py --output tools/bench/results/data_order.json
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import description, publish
from torch.utils.data import DataLoader

from nemotron4_data import Distribution, Sampling, StreamPhase, TokenStream, expand
from nemotron4_data.shards import Shard, ShardWriter
from nemotron4_model import ModelConfig, Transformer, initialise
from nemotron4_train.lightning.data import StepBatch, StepDataset
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape, Timeline

VOCAB_SIZE = 256_000
TOKENS = (1_000_000, 1_000_000_000, 1_000_000_000_000, 7_000_000_000_000)
LENGTHS = (256, 4096)
STEP_TOKENS = 16_384


class BenchCorpus:
    """Random shards of sources of English, languages and code, of different sizes."""

    def __init__(self, directory: Path) -> None:
        generator = np.random.default_rng(0)
        names = [f"english/{n}" for n in range(8)] + [f"multilingual/{n}" for n in range(53)]
        names += [f"code/{n}" for n in range(43)]
        self.num_train_tokens: dict[str, int] = {}
        self._shards: dict[str, Shard] = {}
        for number, name in enumerate(names):
            size = 4_000_000 if number < 8 else 200_000 + 10_000 * number
            writer = ShardWriter(directory / str(number), np.dtype("<i4"))
            writer.append(generator.integers(0, VOCAB_SIZE, size), np.array([size], dtype=np.int32))
            writer.close()
            self.num_train_tokens[name] = size
            self._shards[name] = Shard(directory / str(number))

    def train(self, source: str) -> np.ndarray:
        """The tokens of a source."""
        return self._shards[source].tokens


def weights_of(corpus: BenchCorpus) -> dict[str, float]:
    """70 / 15 / 15 with the exponents of the paper's blend."""
    shared = Sampling(exponent=0.77)
    blend = Distribution(
        weights={"english": 0.7, "multilingual": 0.15, "code": 0.15},
        sampling={"multilingual": shared, "code": shared},
    )
    return expand(blend, corpus.num_train_tokens, 0)


def best_seconds(function: Callable[[int], object], rounds: int) -> float:
    """Best time of a call, over rounds with arguments 0, 1, ..."""
    best = float("inf")
    for number in range(rounds):
        start = time.perf_counter()
        function(number)
        best = min(best, time.perf_counter() - start)
    return best


def random_access(corpus: BenchCorpus, rounds: int) -> dict[str, Any]:
    """Microseconds to open the timeline and to read one sample of 4,096 tokens at each position."""
    length = 4096
    phase = StreamPhase(num_samples=2 * TOKENS[-1] // length, sequence_length=length, weights=weights_of(corpus))
    stream = TokenStream(corpus, [phase], 1, length)
    calls: dict[str, Callable[[int], object]] = {
        "locate": lambda sample: stream.entries(sample, sample + 1),
        "read": lambda sample: stream.read([sample]),
        "open_and_read": lambda sample: TokenStream(corpus, [phase], 1, length).read([sample]),
    }
    found = {f"{token:.0e}": {f"{name}_microseconds": float("inf") for name in calls} for token in TOKENS}
    for number in range(rounds):  # positions take turns, so that a busy machine affects all equally
        for token in TOKENS:
            for name, call in calls.items():
                best = found[f"{token:.0e}"]
                start = time.perf_counter()
                call(token // length + number)
                microseconds = round((time.perf_counter() - start) * 1e6, 1)
                best[f"{name}_microseconds"] = min(best[f"{name}_microseconds"], microseconds)
    return found


@contextmanager
def loader(corpus: BenchCorpus, length: int, num_steps: int) -> Iterator[Iterator[StepBatch]]:
    """Steps of 16,384 tokens through one worker, not counting its start."""
    batch = STEP_TOKENS // length
    phase = Phase(
        tokens=num_steps * STEP_TOKENS,
        blend="b",
        global_batch_size=batch,
        sequence_length=length,
        learning_rate=LearningRate(shape=Shape.constant, end_fraction=1.0),
    )
    timeline = Timeline(Schedule(phases={"p": phase}))
    order = [StreamPhase(num_samples=num_steps * batch, sequence_length=length, weights=weights_of(corpus))]
    dataset = StepDataset(TokenStream(corpus, order, 1, length), timeline, 0, 1)
    yield iter(DataLoader(dataset, batch_size=None, sampler=range(num_steps), num_workers=1))


def loading(corpus: BenchCorpus, length: int, num_steps: int) -> float:
    """Tokens per second that one worker delivers."""
    with loader(corpus, length, num_steps + 20) as steps:
        for _ in range(20):
            next(steps)
        start = time.perf_counter()
        for _ in range(num_steps):
            next(steps)
        return num_steps * STEP_TOKENS / (time.perf_counter() - start)


def training(length: int, rounds: int) -> float:
    """Tokens per second of forward + backward of nano_30m in fp32, the best of rounds of 2,048 or `length` tokens."""
    config = ModelConfig(**{**vars(ModelConfig.preset("nano_30m")), "max_sequence_length": length})
    model = Transformer(config)
    initialise(model, 0, config)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(config.vocab_size, (max(1, 2048 // length), length + 1), generator=generator)

    def step(number: int) -> None:
        model.zero_grad()
        model(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean.backward()

    return tokens_BT[:, 1:].numel() / best_seconds(step, rounds)


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = description("torch", "numpy", threads=arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        corpus = BenchCorpus(Path(directory))
        access = random_access(corpus, arguments.rounds)
        throughput = {}
        for length in LENGTHS:
            loaded, trained = loading(corpus, length, 200), training(length, 6)
            throughput[f"sequence length {length}"] = {
                "loading_tokens_per_second": round(loaded),
                "training_nano_30m_tokens_per_second": round(trained),
                "times_what_training_takes": round(loaded / trained, 1),
            }
    document |= {
        "what": "one sample of 4,096 tokens by its token position, best of rounds; loading through one worker",
        "rounds": arguments.rounds,
        "sources": len(corpus.num_train_tokens),
        "random_access_at_token": access,
        "throughput": throughput,
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
