"""How the time of a training step grows with the parameters, at equal tokens: wider, deeper, and both.

Sizes count what multiplies in each step, so all but the embedding table, in which a step looks rows up. A step is
forward, backward and fused AdamW in fp32. Sizes take turns, so that a busy machine affects all of them; seconds are
medians over rounds.

    python tools/bench/growth_parameters.py --output tools/bench/results/growth_parameters.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from contestants import turns
from curve import curve
from machine import description, publish
from training_contestants import Steps, ours

from nemotron4_model import ModelConfig
from nemotron4_train.host_memory import keep_freed_memory

FAMILIES = {
    "wider and deeper": ((64, 4), (96, 6), (144, 7), (224, 7), (320, 8)),
    "wider": ((64, 4), (128, 4), (256, 4), (512, 4)),
    "deeper": ((256, 2), (256, 4), (256, 8), (256, 16)),
}
"""Hidden size and number of layers. The first begins with nano_1m, and about doubles its parameters each time."""


def config_of(width: int, depth: int) -> ModelConfig:
    """nano_1m with this width and depth."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_layers": depth}
    return ModelConfig(**{**vars(ModelConfig.preset("nano_1m")), **sizes})


def measure(families: dict[str, tuple[tuple[int, int], ...]], arguments: argparse.Namespace) -> dict[str, Any]:
    """A curve for each family."""
    shapes = sorted({shape for family in families.values() for shape in family})
    steps, sizes = {}, {}
    for shape in shapes:
        config = config_of(*shape)
        trained = ours(config, "fp32")
        steps[f"{shape}"] = Steps(trained, config.vocab_size, arguments.sequences, arguments.length)
        sizes[shape] = trained.num_parameters - config.vocab_size * config.hidden_size
    rounds = turns(steps, (1,), arguments.rounds)
    seconds = {shape: statistics.median(each[f"{shape}"]["seconds"] for each in rounds) for shape in shapes}
    return {
        name: curve([sizes[shape] for shape in family], [seconds[shape] for shape in family], "parameters")
        for name, family in families.items()
    }


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smallest", type=int, metavar="N", help="only the N smallest of each family")
    parser.add_argument("--sequences", type=int, default=4, help="in a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `nemotron4 train` does
    families = {name: family[: arguments.smallest] for name, family in FAMILIES.items()}
    document = {
        **description("torch", threads=arguments.threads),
        "what": "forward, backward and AdamW, fp32; size: parameters but the embedding table; seconds a step, medians",
        "rounds": arguments.rounds,
        "batch": f"{arguments.sequences} x {arguments.length}",
        "shapes": {
            name: [f"width {width}, {depth} layers" for width, depth in each] for name, each in families.items()
        },
        "curves": measure(families, arguments),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
