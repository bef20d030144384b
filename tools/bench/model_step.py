"""Time one training step (forward and backward) of our model and of transformers' Nemotron, on this machine.

Contestants have the same weights and tokens; their losses are checked to agree. Each has its own process, which steps
as training does: repeatedly, in memory that it has used before. They take turns of a few steps, so that a busy machine
affects all equally: seconds are medians over rounds, a ratio is the median of the ratios within rounds.

"memory kept" means with `nemotron4_train.host_memory`, which `nemotron4 train` uses. It concerns the process, not the
model, so transformers' model is measured with it as well.

    python tools/bench/model_step.py --compile --output tools/bench/results/model_step.json
"""

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from machine import description, publish

from nemotron4_model import ModelConfig, Recompute, Transformer, initialise, parallelise
from nemotron4_model.hugging_face.config_json import to_json
from nemotron4_model.hugging_face.names import to_hugging_face
from nemotron4_train.host_memory import keep_freed_memory

SHAPES: dict[str, tuple[dict[str, Any], int, int]] = {
    "demo nano_3m, 16 x 256": (vars(ModelConfig.preset("nano_3m")), 16, 256),
    "d256 L6 V8192, 8 x 256": (
        {**vars(ModelConfig.preset("nano_10m")), "num_layers": 6},
        8,
        256,
    ),
}
PRECISIONS = ("fp32", "bf16_autocast", "bf16")
COMPILED, MEMORY_KEPT = ", compiled", ", memory kept"
STEPS_PER_TURN = 3
"""Timed steps in a turn, after an untimed one: the CPU caches still contain the previous contestant's data."""


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


def compete(shape: str, name: str) -> None:
    """A contestant's process: prints the loss, seconds per step for each line it reads, and last its peak MB."""
    who, precision = name.split(",")[0].split()
    fields, batch, length = SHAPES[shape]
    config = ModelConfig(**fields)
    tokens_BT = torch.randint(config.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0))

    def make(config: ModelConfig) -> Callable[[torch.Tensor], float]:
        return their_step(config, precision) if who == "transformers" else our_step(config, precision, COMPILED in name)

    # Neither what a library loads on first use nor the copy of our model that provides the weights must count.
    make(ModelConfig(**{**fields, "num_layers": 1}))(tokens_BT[:1, :9])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_kilobytes("VmRSS")
    if name.endswith(MEMORY_KEPT):
        assert keep_freed_memory()
    step = make(config)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    print(step(tokens_BT), flush=True)
    for _ in sys.stdin:
        step(tokens_BT)
        start = time.perf_counter()
        for _ in range(STEPS_PER_TURN):
            step(tokens_BT)
        print((time.perf_counter() - start) / STEPS_PER_TURN, flush=True)
    print(round((_status_kilobytes("VmHWM") - before) / 1024))


def _status_kilobytes(field: str) -> int:
    # Not getrusage: its peak survives exec, so a large parent would hide the child's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


class Contestant:
    """Drives a contestant's process."""

    def __init__(self, shape: str, name: str) -> None:
        command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--compete", shape, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loss = float(self._line())
        self.seconds: list[float] = []
        self.peak_megabytes = 0

    def take_turn(self) -> None:
        """Time a few more steps."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.seconds.append(float(self._line()))

    def leave(self) -> None:
        """End the process."""
        self.peak_megabytes = int(self.process.communicate()[0])

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline() or sys.exit("a contestant died; its message is above")


def measure(shape: str, rounds: int, with_compile: bool) -> dict[str, Any]:
    """Measure every contestant at one shape."""
    kinds = [("transformers", ""), ("ours", ""), *([("ours", COMPILED)] if with_compile else [])]
    names = [
        f"{who} {precision}{compiled}{memory}"
        for precision in PRECISIONS
        for who, compiled in kinds
        for memory in ("", MEMORY_KEPT)
    ]
    contestants = {name: Contestant(shape, name) for name in names}
    losses = [each.loss for each in contestants.values()]
    assert max(losses) - min(losses) < 0.02, losses
    for _ in range(rounds):
        for contestant in contestants.values():
            contestant.take_turn()
    for contestant in contestants.values():
        contestant.leave()
    fields, batch, length = SHAPES[shape]
    flops = ModelConfig(**fields).flops_per_token(length, causal=True) * batch * length
    return {
        name: _row(contestant, contestants, batch * length, flops, name.split(",")[0].split()[1])
        for name, contestant in contestants.items()
    }


def _row(
    contestant: Contestant, contestants: dict[str, Contestant], num_tokens: int, flops: float, precision: str
) -> dict[str, Any]:
    seconds = statistics.median(contestant.seconds)

    def times_as_fast_as(name: str) -> float:
        pairs = zip(contestants[name].seconds, contestant.seconds, strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 2)

    return {
        "milliseconds": round(seconds * 1e3, 1),
        "tokens_per_second": round(num_tokens / seconds),
        "gflops_per_second": round(flops / seconds / 1e9, 1),
        "peak_megabytes": contestant.peak_megabytes,
        "times_as_fast_as": {
            name: times_as_fast_as(name)
            for name in dict.fromkeys(
                (f"transformers {precision}", f"transformers {precision}{MEMORY_KEPT}", "transformers fp32")
            )
        },
    }


def main() -> None:
    """Measure every shape; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="also compiled blocks; takes minutes to warm up")
    parser.add_argument("--compete", nargs=2, metavar=("SHAPE", "CONTESTANT"), help="run as one contestant's process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.compete:
        compete(*arguments.compete)
        return
    document = {
        **description("torch", "transformers", threads=arguments.threads),
        "what": "forward + backward without optimiser; medians of rounds; FLOPs with causal attention once; "
        "peak memory: weights, gradients and all that steps ever held at once",
        "rounds": arguments.rounds,
        "shapes": {shape: measure(shape, arguments.rounds, arguments.compile) for shape in arguments.shapes},
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
