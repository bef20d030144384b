"""Time a training step (forward, backward, fused AdamW) of our model, of transformers' Nemotron and of litgpt's GPT.

Ours and transformers' have the same weights and tokens, and their losses are checked to agree; litgpt's closest model
has the same sizes (see training_contestants.py). Each contestant has its own process, which steps as training does:
repeatedly, in memory that it has used before. They take turns of a few steps, and so do large matrix products of the
same format, whose best rate in a turn is the peak that a contestant's rate is a share of. Speeds are medians over
rounds, ratios and shares medians of those within rounds.

"memory kept" means with `nemotron4_train.host_memory`, as `nemotron4 train` always does, and so does `ours` here. It
concerns the process, not the model, so the others are measured with it as well as without.

    python tools/bench/model_step.py --compile nano_10m --output tools/bench/results/model_step.json
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import math
import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contestants import Fork, TakeTurn, compared, turns
from cpu_peaks import product_teraflops
from machine import description, publish, reset_peak, status_kilobytes, trim_memory
from training_contestants import Steps, Trained, litgpt_closest, ours, transformers_nemotron

from nemotron4_model import ModelConfig
from nemotron4_train.host_memory import keep_freed_memory

MODELS = ("nano_1m", "nano_10m", "nano_30m")
PRECISIONS = ("fp32", "bf16")
PEERS = {"transformers": transformers_nemotron, "litgpt": litgpt_closest}
MODULES = {"transformers": "transformers.models.nemotron.modeling_nemotron", "litgpt": "litgpt.model"}
"""Peer -> what takes seconds to import, and is imported before processes are forked."""
COMPILED, MEMORY_KEPT = ", compiled", ", memory kept"
PEAK = "matrix product"
SECONDS_PER_TURN, PRODUCTS_PER_TURN = 0.3, 4


def contestants(compiled: bool) -> list[str]:
    """Names of those that can run here."""
    peers = [name + memory for name in PEERS if is_installed(name) for memory in ("", MEMORY_KEPT)]
    return ["ours", *(["ours" + COMPILED] if compiled else []), *peers]


def is_installed(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def build(name: str, config: ModelConfig, precision: str) -> Trained:
    """A contestant's model."""
    who = name.split(",")[0]
    return ours(config, precision, COMPILED in name) if who == "ours" else PEERS[who](config, precision)


def contestant(name: str, model: str, precision: str, arguments: argparse.Namespace) -> TakeTurn:
    """Some steps -> their figures, with the peak of this process since the model exists in MB."""
    torch.set_num_threads(arguments.threads)
    config = ModelConfig.preset(model)
    if not name.endswith(COMPILED):
        # What a library loads on first use must not count.
        small = ModelConfig(**{**vars(config), "num_layers": 1})
        Steps(build(name, small, precision), config.vocab_size, 1, 8)(1)
    trim_memory()
    before = status_kilobytes("VmRSS")
    if name.startswith("ours") or name.endswith(MEMORY_KEPT):
        assert keep_freed_memory()
    trained = build(name, config, precision)
    steps = Steps(trained, config.vocab_size, arguments.sequences, arguments.length)
    gc.collect()
    reset_peak()

    def take_turn(count: int) -> dict[str, Any]:
        figures = steps(count)
        megabytes = round((status_kilobytes("VmHWM") - before) / 1024)
        return {**figures, "peak_megabytes": megabytes, "parameters": trained.num_parameters}

    return take_turn


def measure(model: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every contestant at one size and format."""
    names = contestants(model in arguments.compile)
    with ExitStack() as leaving:
        running: dict[str, TakeTurn] = {}
        for name in (PEAK, *names):
            make = partial(_products if name == PEAK else contestant, name, model, precision, arguments)
            started = Fork(make)
            leaving.callback(started.leave)
            running[name] = started.take_turn
        first = {name: running[name](1) for name in names}
        losses = [figures["loss"] for name, figures in first.items() if not name.startswith("litgpt")]
        assert max(losses) - min(losses) < 0.02, losses
        tokens = arguments.sequences * arguments.length
        steps = max(1, math.ceil(SECONDS_PER_TURN * first["ours"]["speed"] / tokens))
        rounds = turns(running, (steps,), arguments.rounds)
    return {"steps_per_turn": steps, **figures_of(rounds, names, ModelConfig.preset(model), arguments.length)}


def _products(name: str, model: str, precision: str, arguments: argparse.Namespace) -> TakeTurn:
    torch.set_num_threads(arguments.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    return lambda count: {"speed": product_teraflops(dtype, PRODUCTS_PER_TURN)}


def figures_of(
    rounds: list[dict[str, dict[str, Any]]], names: list[str], config: ModelConfig, length: int
) -> dict[str, Any]:
    """By contestant: speed, share of the peak, seconds, memory, and how many times as fast as others it is."""
    flops_per_token = config.flops_per_token(length, causal=True)
    peak = compared(rounds, PEAK, digits=4)[PEAK]["speed"]
    found: dict[str, Any] = {"gemm_peak_teraflops": peak, "contestants": {}}
    for name in names:
        shares = [each[name]["speed"] * flops_per_token / each[PEAK]["speed"] / 1e12 for each in rounds]
        found["contestants"][name] = {
            "parameters": rounds[0][name]["parameters"],
            "tokens_per_second": round(statistics.median(each[name]["speed"] for each in rounds), 1),
            "tokens_per_second_quartiles": _quartiles([each[name]["speed"] for each in rounds], 1),
            "share_of_gemm_peak": round(statistics.median(shares), 3),
            "optimizer_share": round(
                statistics.median(each[name]["optimizer_seconds"] / each[name]["seconds"] for each in rounds), 3
            ),
            "peak_megabytes": max(each[name]["peak_megabytes"] for each in rounds),
            "times_as_fast_as": {},
        }
    for base in names:
        for name, each in compared(rounds, base).items():
            if name != PEAK and name != base:
                ratio = {key: each[key] for key in ("ratio", "quartiles")}
                found["contestants"][name]["times_as_fast_as"][base] = ratio
    return found


def _quartiles(values: list[float], digits: int) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [round(low, digits), round(high, digits)]


def main() -> None:
    """Measure every size and format; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of conf/model")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--compile", nargs="+", default=[], metavar="NAME", help="sizes at which to time ours compiled")
    parser.add_argument("--sequences", type=int, default=8, help="in a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    arguments = parser.parse_args()
    present = [name for name in PEERS if is_installed(name)]
    for name in present:
        importlib.import_module(MODULES[name])
    document = {
        **description("torch", *present, threads=arguments.threads),
        "what": "forward, backward and AdamW on one batch; FLOPs with causal attention once; peak memory: weights, "
        "gradients, optimiser and all that steps ever held at once; bf16: products in bf16, the rest in fp32",
        "left_out": {name: "not installed" for name in PEERS if name not in present},
        "rounds": arguments.rounds,
        "batch": f"{arguments.sequences} x {arguments.length}",
        "sizes": {
            model: {precision: measure(model, precision, arguments) for precision in arguments.precisions}
            for model in arguments.models
        },
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
