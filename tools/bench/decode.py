"""Tokens a second of our engine, of transformers' `generate` and of llama.cpp, greedy, with the same random weights.

Each contestant has its own process. They take turns of one generation each, so that a busy machine affects all equally:
speeds are medians over rounds; a ratio is the median of the ratios within rounds, with their quartiles. Decoding is
timed from the first new token to the last; prefill is a long prompt up to its first token. With one thread, seconds are
those that the process computed. Our engine guesses no tokens and keeps no prompts.

At batch 1 a step reads every weight of the blocks and the head once. So each round also reads as many bytes in the
plainest way, and the result says what share of that bandwidth decoding reaches, and so what could be gained.

    python tools/bench/decode.py --output tools/bench/results/decode.json
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or else threads that wait keep others from working

import torch
from contestants import Contestant, TakeTurn, compared, compete, turns
from machine import description, publish
from peers import nemotron_of

from nemotron4_infer import SamplingConfig
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine.huge_pages import use_huge_pages
from nemotron4_infer.engine.request import Request
from nemotron4_infer.engine.runner import make_runner
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.plan import engine_weights_bytes
from nemotron4_infer.weights.engine_weights import from_transformer
from nemotron4_infer.weights.packed import pack
from nemotron4_infer.weights.quantised import quantise, quantised_linear
from nemotron4_model import DType, ModelConfig, Transformer, initialise

OURS, THEIRS, LLAMA = "ours", "transformers", "llama.cpp"
BASE = f"{THEIRS} fp32"
FORMATS = {"fp32": (OURS, THEIRS, LLAMA), "bf16": (OURS, THEIRS, LLAMA), "int8": (OURS,), "int4": (OURS,)}
"""Number format of the weights -> who takes part."""
NEW_TOKENS = {1: 1, 8: 2, 32: 4}
"""Sequences -> what --new-tokens is divided by, so that more of them take no longer."""
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
    import transformers  # for the criterion below

    other = nemotron_of(model).eval()
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


def llama(model: Transformer, number_format: str) -> Generate:
    """llama.cpp."""
    from llama import load  # imported here: not everybody has it

    return load(model, number_format, torch.get_num_threads(), now)


MAKERS: Mapping[str, Callable[[Transformer, str], Generate]] = {OURS: ours, THEIRS: theirs, LLAMA: llama}


def contestant(name: str, config: ModelConfig) -> TakeTurn:
    """A function that makes one generation, of (sequences, prompt tokens, new tokens)."""
    who, number_format = name.split()
    model = Transformer(config).eval()
    initialise(model, 0, config)
    generate = MAKERS[who](model, number_format)

    def take_turn(sequences: int, length: int, count: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(length)
        prompts = torch.randint(config.vocab_size, (sequences, length), generator=generator).tolist()
        start = now()
        tokens, times = generate(prompts, count)
        decoding = sequences * (count - 1) / (times[-1] - times[0]) if count > 1 else None
        return {"speed": decoding or sequences * length / (times[0] - start), "tokens": tokens}

    return take_turn


def names_of(formats: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The contestants that can take part, and why others cannot."""
    packages = {THEIRS: ("transformers",), LLAMA: ("llama_cpp", "gguf")}
    missing = {who: [name for name in names if find_spec(name) is None] for who, names in packages.items()}
    left_out = {who: f"{' and '.join(names)} not installed" for who, names in missing.items() if names}
    return [f"{who} {each}" for each in formats for who in FORMATS[each] if who not in left_out], left_out


def measure(contestants: Mapping[str, TakeTurn], work: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Speeds and ratios of all contestants at one kind of work: "tokens_per_second", and "to" others."""
    return summary(turns(contestants, work, rounds))


def summary(figures: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Of the figures of rounds: ours beside transformers in fp32, and beside others whose weights are in our format."""
    present, first = list(figures[0]), figures[0]
    found: dict[str, Any] = {}
    for name in present:
        who, number_format = name.split()
        found[name] = {"tokens_per_second": compared(figures, name)[name]["speed"]}
        if who != OURS:
            continue
        peers = [BASE, *(f"{peer} {number_format}" for peer in (THEIRS, LLAMA))]
        for peer in dict.fromkeys(each for each in peers if each in present):
            ratio = compared([{each: turn[each] for each in (name, peer)} for turn in figures], peer)[name]
            found[name].setdefault("to", {})[peer] = {key: ratio[key] for key in ("ratio", "quartiles")}
    fp32 = [f"{who} fp32" for who in FORMATS["fp32"] if f"{who} fp32" in present]
    same = [_equal_share(first[name]["tokens"], first[fp32[0]]["tokens"]) for name in fp32[1:]]
    return found | {"tokens_equal_to_ours_fp32": dict(zip(fp32[1:], same, strict=True))}


def _equal_share(texts: list[list[int]], others: list[list[int]]) -> float:
    """The share of texts that are the same to the last token."""
    return round(statistics.mean(text == other for text, other in zip(texts, others, strict=True)), 3)


def reading(num_bytes: int) -> TakeTurn:
    """A function that reads so many bytes, in huge pages as the engine's weights: "speed" in bytes a second."""
    halves = torch.ones(2, num_bytes // 8)
    use_huge_pages()

    def take_turn(*work: int) -> dict[str, Any]:
        seconds = []
        for _ in range(5):
            begin = now()
            torch.dot(*halves)
            seconds.append(now() - begin)
        return {"speed": num_bytes / min(seconds)}

    return take_turn


def bytes_of_a_token(config: ModelConfig, number_format: str) -> int:
    """Of weights that a step at batch 1 reads: all but the embedding and the rotary tables, of which it reads rows."""
    dtype = DType.fp32 if number_format == "fp32" else DType.bf16
    quantization = Quantisation(number_format) if number_format.startswith("int") else None
    whole = engine_weights_bytes(config, dtype, quantization)
    return whole - config.rotary_table_bytes - config.vocab_size * config.hidden_size * dtype.num_bytes


def shares(figures: list[dict[str, dict[str, Any]]], config: ModelConfig) -> dict[str, Any]:
    """What of the bandwidth of `reading` each of ours reaches, and what it would be to transformers at all of it."""
    found: dict[str, Any] = {
        "read_gigabytes_per_second": round(statistics.median(turn["reading"]["speed"] for turn in figures) / 1e9, 1)
    }
    for name in (name for name in figures[0] if name.startswith(OURS)):
        size = bytes_of_a_token(config, name.split()[1])
        share = statistics.median(turn[name]["speed"] * size / turn["reading"]["speed"] for turn in figures)
        found[name] = {"bytes_a_token": size, "share": round(share, 2)}
        if BASE in figures[0]:
            most = statistics.median(turn["reading"]["speed"] / size / turn[BASE]["speed"] for turn in figures)
            found[name][f"most_to_{BASE}"] = round(most, 2)
    return found


def main() -> None:
    """Measure everything; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--model", default="nano_30m", help="a preset")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="of the weights")
    parser.add_argument("--new-tokens", type=int, default=64, help="at batch 1; at 8 a half, at 32 a quarter")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of the long prompt")
    parser.add_argument("--compete", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = ModelConfig.preset(arguments.model)
    if arguments.compete:
        compete(contestant(arguments.compete, config))
        return
    names, left_out = names_of(arguments.formats)
    libraries = {THEIRS: "transformers", LLAMA: "llama-cpp-python"}
    document: dict[str, Any] = {
        **description(
            "torch", *(lib for who, lib in libraries.items() if who not in left_out), threads=arguments.threads
        ),
        "what": f"greedy tokens a second, {arguments.model}, prompts of {PROMPT_TOKENS} tokens; prefill of "
        f"{arguments.prompt_tokens} tokens",
        "rounds": arguments.rounds,
        "left_out": left_out,
    }
    if LLAMA not in left_out:
        from llama import features  # imported here: not everybody has it

        document["llama.cpp"] = features()
    options = ("--threads", str(arguments.threads), "--model", arguments.model)
    processes = {name: Contestant(Path(__file__), name, *options) for name in names}
    everyone: dict[str, TakeTurn] = {name: process.take_turn for name, process in processes.items()}
    read = reading(bytes_of_a_token(config, "fp32"))
    for sequences, divisor in NEW_TOKENS.items():
        work = (sequences, PROMPT_TOKENS, max(2, arguments.new_tokens // divisor))
        taking_part = everyone | ({"reading": read} if sequences == 1 else {})
        figures = turns(taking_part, work, arguments.rounds)
        if sequences == 1:
            document["bandwidth"] = shares(figures, config)
            figures = [{name: turn[name] for name in names} for turn in figures]
        document[f"batch {sequences}"] = {"new_tokens": work[2], **summary(figures)}
    document["prefill"] = measure(everyone, (1, arguments.prompt_tokens, 1), arguments.rounds)
    document["load_average_at_end"] = round(os.getloadavg()[0], 2)
    publish(document, arguments.output)
    for process in processes.values():
        process.leave()


if __name__ == "__main__":
    main()
