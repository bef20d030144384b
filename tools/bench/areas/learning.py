"""What a model learns from the same text, tokens and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark import Area, Benchmark, Result, Row

TOY = (
    "model.vocab_size=1024",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=1",
    "blend.max_epochs=1000",  # of phases that are not reached
    "trainer.max_steps=4",
    "trainer.validation_bytes_per_source=100",
)
GOAL = 2.25


def _rate(result: Result) -> str:
    tuned = result["transformers"]["optimizer"]
    return f"AdamW, lr {tuned['lr']:g}, betas {tuned['betas'][0]:g} and {tuned['betas'][1]:g}"


def _draw(results: Mapping[str, Result]) -> Any:
    from matplotlib.figure import Figure

    result = results["learning"]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, label in (("ours", "nemotron4, the demo's settings"), ("transformers", f"transformers, {_rate(result)}")):
        tokens, bits = zip(*result[name]["curve"], strict=True)
        axes.plot([each / 1e6 for each in tokens], bits, marker="o", markersize=3, label=label)
    axes.set_xlabel("training tokens (millions)")
    axes.set_ylabel("bits per byte, part of the held-out text")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


AREA = Area(
    title="Learning",
    benchmarks=(
        Benchmark(
            "learning",
            ("--data", "{corpus}"),
            ("--data", "{corpus}", "--heldout-bytes", "100", *TOY),
            packages=("transformers",),
            minutes=9.6,
        ),
    ),
    rows=(
        Row(
            "bits per byte of all held-out text, the demo's model, tokens and samples",
            "learning",
            lambda result: f"{result['ours']['bits_per_byte']:.3f}",
            peer=lambda result: f"{result['transformers']['bits_per_byte']:.3f} (transformers, {_rate(result)})",
            goal=f"below transformers', and {GOAL} or less",
            met=lambda result: result["ours"]["bits_per_byte"] <= min(GOAL, result["transformers"]["bits_per_byte"]),
        ),
        Row(
            "training tokens/s meanwhile, a core each",
            "learning",
            lambda result: f"{result['ours']['tokens_per_second']:,}",
            peer=lambda result: f"{result['transformers']['tokens_per_second']:,} (transformers, plain loop)",
        ),
    ),
    text=(
        "Ours is `nemotron4 train experiment=demo`: Muon for the matrices of the blocks, AdamW for the rest. Beside it,"
        " transformers' `NemotronForCausalLM` of the same shape trains at the same time, a core each, in a plain loop"
        " with AdamW: from the same"
        " initial weights, on the same samples in the same order and batches, at the same fractions of its peak rate,"
        " which was tuned. It has one rate for all parameters: rates of their own for the embedding and the head, which"
        " are part of our lead, were not tried with it. One function scores both on the same held-out text; the curves"
        " read a part of it."
    ),
    pictures={"learning": _draw},
)
