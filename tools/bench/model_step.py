"""Time one training step (forward and backward) of our model beside transformers' Nemotron, on this machine.

Both hold the same weights in the same precision and see the same tokens; the loss is checked to agree before timing.
Rounds alternate between the contestants, so that a busy machine harms all alike: a ratio is the median over rounds of
the ratio within a round, milliseconds are those of the best round.

    python tools/bench/model_step.py --output tools/bench/results/model_step.json
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from machine import processor

from nemotron4_model import ModelConfig, Recompute, Transformer, initialise, parallelise
from nemotron4_model.hugging_face.config_json import to_json
from nemotron4_model.hugging_face.names import to_hugging_face

SHAPES: dict[str, tuple[dict[str, Any], int, int]] = {
    "demo nano_3m, 16 x 256": (vars(ModelConfig.preset("nano_3m")), 16, 256),
    "d256 L6 V8192, 8 x 256": (
        {**vars(ModelConfig.preset("nano_10m")), "num_layers": 6},
        8,
        256,
    ),
}
PRECISIONS = ("fp32", "bf16_autocast", "bf16")


def our_step(config: ModelConfig, precision: str, compile_blocks: bool) -> Callable[[torch.Tensor], float]:
    """A function from tokens to the loss, leaving gradients behind."""
    model = Transformer(config)
    initialise(model, 0, config)
    if precision == "bf16":
        model.bfloat16()
    parallelise(model, None, recompute=Recompute.none, compile=compile_blocks)

    def step(tokens_BT: torch.Tensor) -> float:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16_autocast"):
            loss = model(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean
        loss.backward()
        return loss.item()

    return step


def their_step(config: ModelConfig, precision: str) -> Callable[[torch.Tensor], float]:
    """The same with transformers' NemotronForCausalLM and F.cross_entropy in fp32."""
    settings = to_json(config, torch.float32)
    settings.pop("torch_dtype")
    model = transformers.NemotronForCausalLM(transformers.NemotronConfig(**settings))
    ours = Transformer(config)
    initialise(ours, 0, config)
    stored = (pair for name, p in ours.named_parameters() for pair in to_hugging_face(name, p.detach(), config))
    model.load_state_dict(dict(stored))
    model.train()
    if precision == "bf16":
        model.bfloat16()

    def step(tokens_BT: torch.Tensor) -> float:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16_autocast"):
            logits = model(tokens_BT[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens_BT[:, 1:].flatten())
        loss.backward()
        return loss.item()

    return step


def peak_megabytes(shape: str, contestant: str) -> float:
    """Most resident memory that two steps of one contestant add to its starting process, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", shape, contestant, "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_of(shape: str, contestant: str) -> float:
    """What `peak_megabytes` asks of its process: weights, gradients and all that two steps hold at once."""
    fields, batch, length = SHAPES[shape]
    config = ModelConfig(**fields)
    tokens = torch.randint(config.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    who, precision = contestant.split()[:2]
    make = their_step if who == "transformers" else partial(our_step, compile_blocks=contestant.endswith("compiled"))
    # What either library loads on first use must not count, nor the copy of our model that gives them the weights.
    make(ModelConfig(**{**fields, "num_layers": 1}), precision)(tokens[:1, :9])
    gc.collect()
    before = _status_kilobytes("VmRSS")
    step = make(config, precision)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    for _ in range(2):
        step(tokens)
    return (_status_kilobytes("VmHWM") - before) / 1024


def _status_kilobytes(field: str) -> int:
    # Not getrusage: its peak outlives exec, so that a large parent would hide the child's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


def measure(shape: str, rounds: int, with_compile: bool) -> dict[str, Any]:
    """Best milliseconds and tokens per second of every contestant at one shape."""
    fields, batch, length = SHAPES[shape]
    config = ModelConfig(**fields)
    tokens = torch.randint(config.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    steps: dict[str, Callable[[torch.Tensor], float]] = {}
    for precision in PRECISIONS:
        steps[f"transformers {precision}"] = their_step(config, precision)
        steps[f"ours {precision}"] = our_step(config, precision, compile_blocks=False)
        if with_compile:
            steps[f"ours {precision} compiled"] = our_step(config, precision, compile_blocks=True)
    losses = {name: step(tokens) for name, step in steps.items()}
    assert max(losses.values()) - min(losses.values()) < 0.02, losses
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(tokens)
            seconds[name].append(time.perf_counter() - start)
    flops = config.flops_per_token(length, causal=True) * batch * length
    result: dict[str, Any] = {
        name: {
            "milliseconds": round(min(times) * 1e3, 1),
            "tokens_per_second": round(batch * length / min(times)),
            "gflops_per_second": round(flops / min(times) / 1e9, 1),
            "peak_megabytes": round(peak_megabytes(shape, name)),
        }
        for name, times in seconds.items()
    }

    def ratio(theirs: str, ours: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True)), 2)

    result["speedup_over_transformers"] = {
        name: ratio(f"transformers {name.split()[1]}", name) for name in steps if name.startswith("ours")
    }
    result["speedup_over_transformers_fp32"] = {name: ratio("transformers fp32", name) for name in steps}
    return result


def main() -> None:
    """Measure every shape and print, or write, one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="also compiled blocks; takes minutes to warm up")
    parser.add_argument("--peak-of", nargs=2, metavar=("SHAPE", "CONTESTANT"), help="only print one's peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(peak_of(*arguments.peak_of))
        return
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    document = {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "load_average_at_start": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": commit,
        "what": "forward + backward without optimiser; best round, ratios: median; FLOPs with causal attention once",
        "rounds": arguments.rounds,
        "shapes": {shape: measure(shape, arguments.rounds, arguments.compile) for shape in arguments.shapes},
    }
    text = json.dumps(document, indent=2) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
