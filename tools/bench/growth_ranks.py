"""How the time of a step of `nemotron4 train` changes with the number of ranks, on this machine: FSDP2 over gloo.

Every run trains the same model on the same global batch, with `topology.shard` = 1, 2 and 4, cut into micro-batches of
a quarter of it: four on one rank, one on each of four. The seconds of a step are the median of a run's metrics.csv,
without its first steps; runs repeat in turns.

Ranks of one machine share its cores. "as nemotron4 train does" divides the cores among them, so that one rank uses all
already and ideal is a constant time (exponent 0). With "one thread a rank" each brings a core, and ideal is half the
time for twice the ranks (exponent -1), but only while there is a core for each. Ranks beyond that take turns on the
cores, in both.

    python tools/bench/growth_ranks.py --data data/sample --output tools/bench/results/growth_ranks.json
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import inputs
from curve import curve
from machine import description, publish

SHARED, ONE_THREAD = "as nemotron4 train does", "one thread a rank"
NOT_COUNTED = 3
"""First steps of a run."""


def seconds_of_a_step(ranks: int, threads: int, directory: Path, arguments: argparse.Namespace) -> float:
    """Train in `directory`; CalledProcessError if that fails."""
    overrides = {
        "run.dir": directory,
        "data.dir": Path(arguments.data).resolve(),
        "data.verify": "false",
        "blend.max_epochs": 1_000,  # of phases that are not reached
        "model": arguments.model,
        "topology.shard": ranks,
        "topology.micro_batch_size": max(1, arguments.batch // 8),
        "launcher.num_threads": threads,
        "schedule": "demo",
        "schedule.phases.warmup.tokens": arguments.steps * arguments.batch * arguments.length,
        "schedule.phases.warmup.global_batch_size": arguments.batch,
        "schedule.phases.warmup.sequence_length": arguments.length,
        "trainer.max_steps": arguments.steps,
        "trainer.validation_bytes_per_source": 1,
    }
    inputs.nemotron4("train", *(f"{key}={value}" for key, value in overrides.items()))
    with (directory / "metrics.csv").open(encoding="utf-8") as file:
        speeds = [float(row["tokens_per_second"]) for row in csv.DictReader(file)]
    return arguments.batch * arguments.length / statistics.median(speeds[NOT_COUNTED:])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Curves, and seconds relative to those of one rank."""
    cores = len(os.sched_getaffinity(0))
    layouts = {
        SHARED: [(ranks, max(1, cores // ranks)) for ranks in arguments.ranks],
        ONE_THREAD: [(ranks, 1) for ranks in arguments.ranks],
    }
    seconds: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        for number in range(arguments.rounds):
            for ranks, threads in dict.fromkeys(layout for each in layouts.values() for layout in each):
                directory = Path(root) / f"{number}-{ranks}-{threads}"
                found = seconds_of_a_step(ranks, threads, directory, arguments)
                seconds.setdefault((ranks, threads), []).append(found)
    typical = {layout: statistics.median(found) for layout, found in seconds.items()}
    return {
        "threads_a_rank": {name: [threads for _, threads in each] for name, each in layouts.items()},
        "curves": {
            name: curve(arguments.ranks, [typical[layout] for layout in each], "ranks")
            for name, each in layouts.items()
        },
        "seconds_over_one_rank": {
            name: {str(ranks): _ratio(seconds[ranks, threads], seconds[each[0]]) for ranks, threads in each[1:]}
            for name, each in layouts.items()
        },
    }


def _ratio(seconds: list[float], base: list[float]) -> dict[str, float]:
    ratios = [mine / its for mine, its in zip(seconds, base, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", default="data/sample", help="a prepared corpus; its tokenizer fits the model")
    parser.add_argument("--model", default="nano_3m")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4], help="the first is what others relate to")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a step, over all ranks")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=12, help="of a run")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    names = ("model", "batch", "length", "steps", "rounds")
    document = {
        **description("torch", "lightning"),
        "what": "seconds of a step of nemotron4 train, fp32, FSDP2 over gloo, the same global batch on every number of "
        "ranks; medians of runs in turns",
        **{name: getattr(arguments, name) for name in names},
        **measure(arguments),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
