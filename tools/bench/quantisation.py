"""What quantising costs and gives on a CPU: bits per byte of held-out text, size, and speed of the engine's own steps.

Bits per byte are those of `nemotron4 eval`, computed by the engine's step runner and so by its quantised kernels. Speed
is tokens a second of process time on one thread, the best of `--repeats`: decoding one and eight sequences at a context
of 64 tokens, and a prompt of 128. `--size` adds the speed of a larger model with random weights.

    python tools/bench/quantisation.py --model-dir runs/demo/latest/export --corpus data/sample \
        --size nano_30m --output tools/bench/results/quantisation.json
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from machine import description, publish
from torch import Tensor, nn

from nemotron4_data import Corpus
from nemotron4_eval.heldout.bits_per_byte import score_heldout
from nemotron4_eval.heldout.text import read_heldout
from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.step import CpuRunner
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.plan import engine_weights_bytes
from nemotron4_infer.weights.load import load_engine_weights
from nemotron4_infer.weights.packed import pack
from nemotron4_model import DType, ModelConfig, Transformer, initialise, save_pretrained
from nemotron4_model.loss import Loss

FORMATS: dict[str, tuple[DType, Quantisation | None]] = {
    "fp32": (DType.fp32, None),
    "bf16": (DType.bf16, None),
    "int8": (DType.bf16, Quantisation.int8),
    "int4": (DType.bf16, Quantisation.int4),
}
CONTEXT_TOKENS, PROMPT_TOKENS, DECODED_TOKENS = 64, 128, 16


class Scorer(nn.Module):
    """The engine's runner in the place of the model that `score_heldout` calls."""

    def __init__(self, runner: CpuRunner) -> None:
        super().__init__()
        self.runner, self.config = runner, runner.weights.config

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Loss:
        """Loss of each target, a row at a time as the prompt of a sequence."""
        rows = []
        for tokens_T, targets_T in zip(tokens_BT, targets_BT, strict=True):
            logits_TV = prefill(self.runner, tokens_T.tolist(), num_logits=len(tokens_T))
            self.runner.close(0)
            rows.append(F.cross_entropy(logits_TV.float(), targets_T, reduction="none"))
        nll_BT = torch.stack(rows)
        return Loss(nll_BT.mean(), nll_BT)


def prefill(runner: CpuRunner, ids: list[int], num_logits: int = 1, key: int = 0) -> Tensor:
    """Open a sequence with a prompt; logits_TV of its last tokens."""
    runner.open(key, runner.max_sequence_length, [], 0)
    (logits_TV,) = runner.run([Span(key, 0, ids, num_logits, is_prefill=True)])
    return logits_TV


def runner_of(directory: Path, name: str) -> CpuRunner:
    """A runner with the weights in a format of FORMATS."""
    dtype, quantization = FORMATS[name]
    weights = load_engine_weights(
        directory, dtype=dtype.torch_dtype, device=torch.device("cpu"), quantization=quantization, make=pack
    )
    return CpuRunner(weights, num_pages=1)


def tokens_per_second(work: Callable[[], int], repeats: int) -> float:
    """Tokens a second of process time, the best of `repeats` after one that does not count."""
    work()
    best = 0.0
    for _ in range(repeats):
        begin = time.process_time()
        tokens = work()
        best = max(best, tokens / (time.process_time() - begin))
    return round(best, 1)


def speeds(runner: CpuRunner, repeats: int) -> dict[str, float]:
    """Tokens a second of decoding and of a prompt."""
    ids = [5 + i % 200 for i in range(PROMPT_TOKENS)]

    def prompt() -> int:
        prefill(runner, ids)
        runner.close(0)
        return len(ids)

    def decode(count: int) -> Callable[[], int]:
        def work() -> int:
            for step in range(DECODED_TOKENS):
                position = CONTEXT_TOKENS + step
                runner.run([Span(key, position, [7 + key], 1, is_prefill=False) for key in range(count)])
            return DECODED_TOKENS * count

        return work

    found = {"prompt_tokens_per_second": tokens_per_second(prompt, repeats)}
    for count in (1, 8):
        for key in range(count):
            prefill(runner, ids[:CONTEXT_TOKENS], key=key)
        found[f"decode_{count}_tokens_per_second"] = tokens_per_second(decode(count), repeats)
        for key in range(count):
            runner.close(key)
    return found


def measure(directory: Path, corpus: Corpus | None, max_bytes: int | None, repeats: int) -> dict[str, Any]:
    """Each format's figures."""
    found: dict[str, Any] = {}
    for name, (dtype, quantization) in FORMATS.items():
        runner = runner_of(directory, name)
        found[name] = {"weights_bytes": engine_weights_bytes(runner.weights.config, dtype, quantization)}
        if corpus is not None:
            texts = read_heldout(corpus, max_bytes)
            scored = score_heldout(cast("Transformer", Scorer(runner)), texts, corpus.tokenizer.eos_id)
            found[name]["bits_per_byte"] = round(scored.overall, 4)
            found[name]["tokens"] = scored.num_tokens
        found[name] |= speeds(runner, repeats)
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--size")
    parser.add_argument("--max-bytes-per-source", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = description("torch", threads=1)
    corpus = Corpus.open(arguments.corpus)
    document["trained"] = measure(arguments.model_dir, corpus, arguments.max_bytes_per_source, arguments.repeats)
    if arguments.size:
        config = ModelConfig.preset(arguments.size)
        model = Transformer(config)
        initialise(model, 0, config)
        with tempfile.TemporaryDirectory() as directory:
            save_pretrained(model, Path(directory) / "m")
            document[arguments.size] = measure(Path(directory) / "m", None, None, arguments.repeats)
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
