"""Documents per second that the quality filter's scorer scores, by model size, precision and tokens read per document.

Weights are random, since time does not depend on them. Documents come from a prepared corpus; one process, one thread.
Contestants alternate in rounds, in CPU seconds, so that other work on the machine matters less.

    python tools/bench/quality_scorer.py build/bench/full/corpus --output tools/bench/results/quality_scorer.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from machine import description, publish

from nemotron4_data import Corpus
from nemotron4_data.documents import document_path, read_lines
from nemotron4_infer.model_directory import LoadedModel
from nemotron4_infer.scoring import NemotronScorer
from nemotron4_model import ModelConfig, Transformer, initialise

MODELS = ("nano_1m", "nano_3m")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def contestants(corpus: Corpus, max_tokens: list[int]) -> dict[tuple[str, str, int], NemotronScorer]:
    """A scorer for every size, precision and limit."""
    found = {}
    for name in MODELS:
        for precision, dtype in PRECISIONS.items():
            preset = ModelConfig.preset(name)
            config = ModelConfig(**{**vars(preset), "max_sequence_length": 256, "vocab_size": corpus.vocab_size})
            model = Transformer(config)
            initialise(model, 0, config)
            loaded = LoadedModel(model=model.to(dtype).eval(), tokenizer=corpus.tokenizer, device=torch.device("cpu"))
            for limit in max_tokens:
                found[name, precision, limit] = NemotronScorer(loaded, limit)
    return found


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--source", default="english/documentation")
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document = description("torch", threads=1)
    corpus = Corpus.open(arguments.corpus)
    torch.set_num_threads(1)
    lines = read_lines(document_path(arguments.corpus / "documents", arguments.source, "train"))
    texts = [json.loads(line)["text"] for line, _ in zip(lines, range(arguments.documents), strict=False)]
    scorers = contestants(corpus, arguments.max_tokens)
    seconds: dict[tuple[str, str, int], list[float]] = {key: [] for key in scorers}
    for _ in range(arguments.rounds):
        for key, scorer in scorers.items():
            started = time.process_time()
            scorer(texts)
            seconds[key].append(time.process_time() - started)
    rows: list[dict[str, Any]] = []
    for (model, precision, limit), times in seconds.items():
        tokens = sum(min(limit, len(corpus.tokenizer.encode(text))) for text in texts)
        fast, middle, slow = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        rows.append(
            {
                "model": model,
                "precision": precision,
                "max_tokens": limit,
                "documents_per_second": round(len(texts) / middle, 1),
                "quartiles": [round(len(texts) / slow, 1), round(len(texts) / fast, 1)],
                "tokens_per_second": round(tokens / middle),
            }
        )
    document |= {
        "what": "tokenise and score documents, in seconds of the processor",
        "documents": len(texts),
        "source": arguments.source,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
