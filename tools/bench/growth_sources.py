"""How opening a corpus, its order and loading grow with the number of sources.

Corpora of the same number of tokens (random, in shards on disk) in ever more sources of uneven sizes, blended by size;
`nemotron4 data adopt` makes them. Seconds of process time, medians over rounds in which the corpora take turns:

- open: the corpus and the digest of its tokenizer, what each process does first
- shards: mapping every source's shard into memory, which a loader does when it first reads the source
- order: weights of the blend and the stream of a timeline of two phases, what a start or a resume makes
- locate: the source and position of one sample
- step: those of all 1,152 samples of a step
- positions: tokens drawn from each source up to a sample, for a checkpoint's ledger
- load: reading a million tokens in samples of 4,096

    python tools/bench/growth_sources.py build/bench/full/corpus --output tools/bench/results/growth_sources.json
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from curve import curve
from machine import description, publish

from nemotron4_data import Distribution, Sampling, StreamPhase, TokenStream
from nemotron4_data.adopt import AdoptJob, adopt
from nemotron4_data.blend import BlendConfig, phase_weights
from nemotron4_data.corpus import Corpus
from nemotron4_data.manifest import TOKENIZER_FILE
from nemotron4_data.shards import ShardWriter, token_dtype
from nemotron4_data.tokenizer import Tokenizer

LENGTH, STEP_SAMPLES = 4096, 1152
PHASES = (("pretraining", 6 * 10**12), ("continued", 10**12))
BLEND = BlendConfig(
    distributions={
        "pretraining": Distribution(weights={"english": 1.0}, sampling={"english": Sampling(exponent=0.7)}),
        "continued": Distribution(weights={"english": 1.0}),
    },
    max_epochs=1e12,
)


def make_corpus(directory: Path, num_sources: int, num_tokens: int, model: Path) -> Path:
    """A corpus whose sources have sizes as 1, 1/2**0.5, 1/3**0.5, ..."""
    tokenizer, generator = Tokenizer(model), np.random.default_rng(0)
    shares = np.arange(1, num_sources + 1) ** -0.5
    shards = []
    for number, share in enumerate(shares / shares.sum()):
        tokens = generator.integers(0, tokenizer.vocab_size, max(2, int(num_tokens * share)))
        tokens[-1] = tokenizer.eos_id
        shards.append(directory / f"{num_sources}" / f"{number}")
        shards[-1].parent.mkdir(exist_ok=True)
        writer = ShardWriter(shards[-1], token_dtype(tokenizer.vocab_size))
        writer.append(tokens, np.array([len(tokens)], dtype=np.int32))
        writer.close()
    corpus = directory / f"corpus-{num_sources}"
    named = [f"english/{number}:{shard}" for number, shard in enumerate(shards)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of the sources
        adopt(AdoptJob(dir=str(corpus), tokenizer_model=str(model), train=named, check_text=False))
    return corpus


def order(corpus: Corpus) -> TokenStream:
    """The stream of the whole timeline, as a run makes it."""
    weights = phase_weights(BLEND, PHASES, corpus.num_train_tokens)
    phases = [
        StreamPhase(num_samples=tokens // LENGTH, sequence_length=LENGTH, weights=each)
        for (_, tokens), each in zip(PHASES, weights, strict=True)
    ]
    return TokenStream(corpus, phases, 1, LENGTH)


def actions(directory: Path, num_loaded: int) -> dict[str, Callable[[int], object]]:
    """What is timed, each with the number of its round."""
    corpus = Corpus.open(directory)
    stream = order(corpus)
    stream.read(range(len(corpus.source_names)))

    def sample(number: int) -> int:
        return stream.num_samples // 2 + number * STEP_SAMPLES

    def shards(number: int) -> None:
        opened = Corpus(directory, corpus.manifest)
        for source in opened.source_names:
            opened.train(source)

    return {
        "open": lambda number: Corpus.open(directory),
        "shards": shards,
        "order": lambda number: order(corpus),
        "locate": lambda number: stream.entries(sample(number), sample(number) + 1),
        "step": lambda number: stream.entries(sample(number), sample(number) + STEP_SAMPLES),
        "positions": lambda number: stream.positions(sample(number)),
        "load": lambda number: [
            stream.read(range(n, n + 4)) for n in range(sample(number), sample(number) + num_loaded, 4)
        ],
    }


def main() -> None:
    """Measure every number of sources; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="a prepared corpus, for its tokenizer")
    parser.add_argument("--sources", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--tokens", type=int, default=40_000_000, help="of each corpus")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document: dict[str, Any] = description("numpy", threads=1)
    num_loaded = 244  # samples of 4,096 tokens: a million tokens
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.corpus / TOKENIZER_FILE
        timed = {
            count: actions(make_corpus(Path(folder), count, arguments.tokens, model), num_loaded)
            for count in arguments.sources
        }
        seconds: dict[tuple[str, int], list[float]] = {}
        for number in range(arguments.rounds):
            for count, calls in timed.items():
                for name, call in calls.items():
                    start = time.process_time()
                    call(number)
                    seconds.setdefault((name, count), []).append(time.process_time() - start)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    names = timed[arguments.sources[0]]
    document |= {
        "what": "seconds of process time by number of sources, with as many tokens in all; load is of a million tokens",
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "curves": {
            name: curve(arguments.sources, [medians[name, count] for count in arguments.sources], "sources")
            for name in names
        },
        "loading_tokens_per_second": {
            str(count): round(num_loaded * LENGTH / medians["load", count]) for count in arguments.sources
        },
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
