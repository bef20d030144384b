"""Tokens a second of our engine and of transformers' `generate`, greedy, with the same random weights.

Each contestant has its own process. They take turns of one generation each, so that a busy machine affects all equally:
speeds are medians over rounds; a ratio, to transformers in fp32, is the median of the ratios within rounds, with their
quartiles. Decoding is timed from the first new token to the last; prefill is a long prompt up to its first token. With
one thread, seconds are those that the process computed. Our engine guesses no tokens and keeps no prompts.

    python tools/bench/decode.py --output tools/bench/results/decode.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or else threads that wait keep others from working

import torch
import transformers
from machine import description, publish

from nemotron4_infer import SamplingConfig
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine.request import Request
from nemotron4_infer.engine.runner import make_runner
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.weights.engine_weights import from_transformer
from nemotron4_infer.weights.packed import pack
from nemotron4_infer.weights.quantised import quantise, quantised_linear
from nemotron4_model import ModelConfig, Transformer, initialise
from nemotron4_model.hugging_face.config_json import to_json
from nemotron4_model.hugging_face.names import to_hugging_face

BASE = "transformers fp32"
CONTESTANTS = (BASE, "transformers bf16", "ours fp32", "ours bf16", "ours int8", "ours int4")
PROMPT_TOKENS = 16

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], tuple[list[list[int]], list[float]]]
"""From prompts and a number to that many new tokens of each, and the time at which all had each of them."""


def now() -> float:
    """Seconds: of computation with one thread, which neighbours disturb less, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class NoText:
    """In place of a tokenizer: no token has text, and none ends it."""

    eos_id = -1

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Nothing."""
        return b""


def ours(model: Transformer, number_format: str) -> Generate:
    """Our engine."""
    make = pack
    if number_format.startswith("int"):
        quantization = Quantisation(number_format)

        def make(weight: torch.Tensor) -> Any:
            return quantised_linear(quantization, quantise(quantization, weight))

    weights = from_transformer(model if number_format == "fp32" else model.bfloat16(), make)
    config = EngineConfig(prefix_cache=False, prompt_lookup=False)
    engine = Engine(make_runner(weights, config), NoText(model.config.vocab_size), config)

    def generate(prompts: Prompts, count: int) -> tuple[list[list[int]], list[float]]:
        sampling = SamplingConfig(max_new_tokens=count, ignore_eos=True)
        tokens = {engine.add(Request(prompt_ids=tuple(ids), sampling=sampling)): [] for ids in prompts}
        times: list[float] = []
        while engine.has_work:
            for delta in engine.step():
                assert delta.error is None, delta.error
                tokens[delta.request] += [token.id for token in delta.tokens]
            times += [now()] * (min(map(len, tokens.values())) - len(times))
        return list(tokens.values()), times

    return generate


def theirs(model: Transformer, number_format: str) -> Generate:
    """transformers' `generate`."""
    settings = to_json(model.config, torch.float32)
    settings.pop("torch_dtype")
    other = transformers.NemotronForCausalLM(transformers.NemotronConfig(**settings)).eval()
    named = model.named_parameters()
    other.load_state_dict(dict(pair for name, p in named for pair in to_hugging_face(name, p.detach(), model.config)))
    if number_format == "bf16":
        other.bfloat16()

    def generate(prompts: Prompts, count: int) -> tuple[list[list[int]], list[float]]:
        times: list[float] = []

        def stamp(ids: torch.Tensor, scores: object) -> torch.Tensor:
            times.append(now())
            return torch.zeros(len(ids), dtype=torch.bool)

        tokens = torch.tensor(prompts)
        found = other.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([stamp]),
        )
        return found[:, tokens.shape[1] :].tolist(), times

    return generate


def contestant(name: str, config: ModelConfig) -> Callable[..., dict[str, Any]]:
    """A function that makes one generation, of (sequences, prompt tokens, new tokens)."""
    who, number_format = name.split()
    model = Transformer(config).eval()
    initialise(model, 0, config)
    generate = (ours if who == "ours" else theirs)(model, number_format)

    def take_turn(sequences: int, length: int, count: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(length)
        prompts = torch.randint(config.vocab_size, (sequences, length), generator=generator).tolist()
        start = now()
        tokens, times = generate(prompts, count)
        decoding = sequences * (count - 1) / (times[-1] - times[0]) if count > 1 else None
        return {"speed": decoding or sequences * length / (times[0] - start), "tokens": tokens}

    return take_turn


class Contestant:
    """Drives a contestant's process."""

    def __init__(self, name: str, preset: str, threads: int) -> None:
        command = [sys.executable, __file__, "--threads", str(threads), "--model", preset, "--compete", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take_turn(self, *work: int) -> dict[str, Any]:
        """One generation."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline() or sys.exit("a contestant died; its message is above"))


def measure(
    contestants: dict[str, Callable[..., dict[str, Any]]], work: tuple[int, int, int], rounds: int
) -> dict[str, Any]:
    """Speeds and ratios of all contestants at one kind of work."""
    turns = [{name: take_turn(*work) for name, take_turn in contestants.items()} for _ in range(rounds + 1)][1:]
    tokens = turns[0]
    found: dict[str, Any] = {"fp32_tokens_are_equal": tokens[BASE]["tokens"] == tokens["ours fp32"]["tokens"]}
    for name in contestants:
        ratios = sorted(turn[name]["speed"] / turn[BASE]["speed"] for turn in turns)
        low, _, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        found[name] = {
            "tokens_per_second": round(statistics.median(turn[name]["speed"] for turn in turns), 1),
            "ratio": round(statistics.median(ratios), 2),
            "quartiles": [round(low, 2), round(high, 2)],
        }
    return found


def main() -> None:
    """Measure everything; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--model", default="nano_30m", help="a preset")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of the long prompt")
    parser.add_argument("--compete", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.compete:
        take_turn = contestant(arguments.compete, ModelConfig.preset(arguments.model))
        for line in sys.stdin:
            print(json.dumps(take_turn(*json.loads(line))), flush=True)
        return
    document = {
        **description("torch", "transformers", threads=arguments.threads),
        "what": f"greedy tokens a second, {arguments.model}, prompts of {PROMPT_TOKENS} tokens, "
        f"{arguments.new_tokens} new ones; prefill of {arguments.prompt_tokens} tokens; ratios to {BASE}",
        "rounds": arguments.rounds,
    }
    processes = {name: Contestant(name, arguments.model, arguments.threads) for name in CONTESTANTS}
    turns = {name: process.take_turn for name, process in processes.items()}
    for sequences in (1, 8):
        work = (sequences, PROMPT_TOKENS, arguments.new_tokens)
        document[f"batch {sequences}"] = measure(turns, work, arguments.rounds)
    document["prefill"] = measure(turns, (1, arguments.prompt_tokens, 1), arguments.rounds)
    document["load_average_at_end"] = round(os.getloadavg()[0], 2)
    publish(document, arguments.output)
    for process in processes.values():
        process.process.communicate()


if __name__ == "__main__":
    main()
