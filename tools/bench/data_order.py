"""Time random access to the order of samples, near and far, and compare data loading with the speed of training.

The corpus is random tokens in shards on disk (memory-mapped, in the page cache), one shard for each of 104 sources,
blended as in conf/blend/nemotron4.yaml; far samples come from later epochs of the same shards. Loading works as in a
training run: StepDataset through a DataLoader with one worker.

    python tools/bench/data_order.py --output tools/bench/results/data_order.json
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import description, publish
from torch.utils.data import DataLoader

from nemotron4_data import Distribution, Sampling, StreamPhase, TokenStream, expand
from nemotron4_data.shards import Shard, ShardWriter
from nemotron4_model import ModelConfig, Transformer, initialise
from nemotron4_train.lightning.data import StepDataset
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape, Timeline

VOCAB_SIZE = 256_000
TOKENS = (1_000_000, 1_000_000_000, 1_000_000_000_000, 7_000_000_000_000)
LOADED_TOKENS = (TOKENS[0], TOKENS[-1])
LENGTHS = (256, 4096)
STEP_TOKENS = 16_384


class BenchCorpus:
    """Random shards of sources of English, languages and code, of different sizes."""

    def __init__(self, directory: Path, share: float) -> None:
        generator = np.random.default_rng(0)
        names = [f"english/{n}" for n in range(8)] + [f"multilingual/{n}" for n in range(53)]
        names += [f"code/{n}" for n in range(43)]
        self.num_train_tokens: dict[str, int] = {}
        self._shards: dict[str, Shard] = {}
        for number, name in enumerate(names):
            size = int(share * (4_000_000 if number < 8 else 200_000 + 10_000 * number))
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


def spread(values: Sequence[float], digits: int = 0) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return {"median": round(middle, digits), "quartiles": [round(low, digits), round(high, digits)]}


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
    found: dict[tuple[int, str], list[float]] = {(token, name): [] for token in TOKENS for name in calls}
    for number in range(rounds):  # positions take turns, so that a busy machine affects all equally
        for token, name in found:
            start = time.perf_counter()
            calls[name](token // length + number)
            found[token, name].append((time.perf_counter() - start) * 1e6)
    return {
        f"{token:.0e}": {f"{name}_microseconds": spread(found[token, name], 1) for name in calls} for token in TOKENS
    }


class Loader:
    """Steps of 16,384 tokens through one worker, as a run that resumes at `token` reads them."""

    def __init__(self, corpus: BenchCorpus, length: int, token: int, num_steps: int) -> None:
        batch, first = STEP_TOKENS // length, token // STEP_TOKENS
        phase = Phase(
            tokens=(first + num_steps) * STEP_TOKENS,
            blend="b",
            global_batch_size=batch,
            sequence_length=length,
            learning_rate=LearningRate(shape=Shape.constant, end_fraction=1.0),
        )
        timeline = Timeline(Schedule(phases={"p": phase}))
        order = [
            StreamPhase(num_samples=timeline.num_steps * batch, sequence_length=length, weights=weights_of(corpus))
        ]
        dataset = StepDataset(TokenStream(corpus, order, 1, length), timeline, 0, 1)
        steps = range(first, timeline.num_steps)
        self._steps = iter(DataLoader(dataset, batch_size=None, sampler=steps, num_workers=1))

    def tokens_per_second(self, num_steps: int) -> float:
        """While the next steps are read."""
        start = time.perf_counter()
        for _ in range(num_steps):
            next(self._steps)
        return num_steps * STEP_TOKENS / (time.perf_counter() - start)


def loading(corpus: BenchCorpus, length: int, rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Tokens per second that one worker delivers from each position, a value a round, not counting its start."""
    found: dict[str, list[float]] = {f"{token:.0e}": [] for token in LOADED_TOKENS}
    for _ in range(rounds):
        for token in LOADED_TOKENS:  # a loader at a time: a waiting one would read ahead meanwhile
            loader = Loader(corpus, length, token, 20 + num_steps)
            loader.tokens_per_second(20)
            found[f"{token:.0e}"].append(loader.tokens_per_second(num_steps))
    return found


def training(preset: str, length: int, rounds: int) -> list[float]:
    """Tokens per second of forward + backward in fp32, a value a round of 2,048 or `length` tokens."""
    config = ModelConfig(**{**vars(ModelConfig.preset(preset)), "max_sequence_length": length})
    model = Transformer(config)
    initialise(model, 0, config)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(config.vocab_size, (max(1, 2048 // length), length + 1), generator=generator)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        model.zero_grad()
        model(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean.backward()
        found.append(tokens_BT[:, 1:].numel() / (time.perf_counter() - start))
    return found


def throughput(corpus: BenchCorpus, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Loading beside training at one sequence length."""
    trained = spread(training(arguments.model, length, arguments.training_rounds))
    loaded = loading(corpus, length, arguments.loading_rounds, arguments.steps)
    return {
        "training_tokens_per_second": trained,
        "loading_tokens_per_second_at_token": {token: spread(values) for token, values in loaded.items()},
        "times_what_training_takes_at_token": {
            token: round(statistics.median(values) / trained["median"], 1) for token, values in loaded.items()
        },
    }


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--corpus-share", type=float, default=1.0, help="of 105 million tokens")
    parser.add_argument("--rounds", type=int, default=200, help="of random access")
    parser.add_argument("--loading-rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of 16,384 tokens, in a round of loading")
    parser.add_argument("--training-rounds", type=int, default=3)
    parser.add_argument("--model", default="nano_30m", help="preset whose training is fed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = description("torch", "numpy", threads=arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        corpus = BenchCorpus(Path(directory), arguments.corpus_share)
        document |= {
            "what": "random access: one sample of 4,096 tokens by its token position; loading through one worker",
            "rounds": arguments.rounds,
            "sources": len(corpus.num_train_tokens),
            "model": arguments.model,
            "random_access_at_token": random_access(corpus, arguments.rounds),
            "throughput": {f"sequence length {length}": throughput(corpus, length, arguments) for length in LENGTHS},
        }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
