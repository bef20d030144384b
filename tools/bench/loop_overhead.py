"""Time of the whole training loop relative to the bare model step, and to transformers' Nemotron in a plain loop.

The loop is that of `nemotron4 train`: Lightning, data order, records, progress, TensorBoard, signals. The bare step is
the indispensable part of training: forward and backward of each micro-batch, clipping, optimiser. The plain loop is the
same with transformers' model and torch's AdamW. All train from the same weights on the same micro-batches, in one
process, which keeps its memory between steps, in alternating blocks of steps; their losses are checked to agree.
Ratios are medians of those within rounds. Validation and checkpoints fall outside the blocks.

    python tools/bench/loop_overhead.py --data data/sample --output tools/bench/results/loop_overhead.json
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from contestants import compared
from machine import description, publish
from torch import nn
from training_contestants import Loss, transformers_nemotron

from nemotron4_data import Corpus
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_model import ModelConfig, Transformer, global_grad_norm_and_clip, initialise
from nemotron4_train.job import (
    DataConfig,
    RunConfig,
    TrainerConfig,
    TrainJob,
)
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.lightning.data import StepBatch, StepDataset
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape
from nemotron4_train.topology import TopologyConfig

PEERS = ("transformers",) if importlib.util.find_spec("transformers") else ()
TOLERANCE = {"bare": 1e-4, "transformers": 2e-2}
"""Of the loss. transformers' loop decays every parameter by the same rate, ours only matrices."""


def training_job(arguments: argparse.Namespace, root: str) -> TrainJob:
    """One phase: a block to warm up, one block per round, and a last step that is validated and saved."""
    num_steps = arguments.block * (arguments.rounds + 1) + 1
    domains = {name.split("/")[0] for name in Corpus.open(arguments.data).source_names}
    phase = Phase(
        tokens=num_steps * arguments.batch * arguments.length,
        blend="all",
        global_batch_size=arguments.batch,
        sequence_length=arguments.length,
        learning_rate=LearningRate(shape=Shape.constant, end_fraction=1.0),
    )
    return TrainJob(
        run=RunConfig(name="loop_overhead", root=root),
        resume="never",
        model=ModelConfig.preset(arguments.model),
        data=DataConfig(dir=arguments.data, verify=False),
        blend=BlendConfig(distributions={"all": Distribution(weights={name: 1 / len(domains) for name in domains})}),
        schedule=Schedule(phases={"all": phase}),
        topology=TopologyConfig(micro_batch_size=arguments.micro_batch),
        trainer=TrainerConfig(
            save_interval_steps=num_steps, validation_interval_steps=num_steps, validation_bytes_per_source=1
        ),
        launcher=LauncherConfig(num_threads=arguments.threads),
    )


class PlainStep:
    """A plain loop's step, from a batch to its loss."""

    def __init__(self, job: TrainJob, model: nn.Module, loss: Loss, optimizers: list[torch.optim.Optimizer]) -> None:
        self.micro_batch_size = job.topology.micro_batch_size
        self.clip_norm = job.optimizer.clip_norm
        self.model, self.loss, self.optimizers = model, loss, optimizers

    def __call__(self, batch: StepBatch) -> float:
        """Take the step."""
        size = self.micro_batch_size
        cuts = list(zip(batch["inputs_BT"].split(size), batch["targets_BT"].split(size), strict=True))
        losses = []
        for inputs_BT, targets_BT in cuts:
            loss = self.loss(inputs_BT, targets_BT)
            (loss / len(cuts)).backward()
            losses.append(loss.detach())
        if isinstance(self.model, Transformer):
            global_grad_norm_and_clip(self.model, self.clip_norm)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).mean())


def plain_steps(job: TrainJob) -> dict[str, PlainStep]:
    """The contestants beside the loop."""
    model = Transformer(job.model)
    initialise(model, job.seed, job.model)
    bare = PlainStep(job, model, lambda x, y: model(x, y).mean, build_optimizers(model, job.optimizer))
    if not PEERS:
        return {"bare": bare}
    theirs, settings = transformers_nemotron(job.model, "fp32", job.seed), job.optimizer
    adamw = torch.optim.AdamW(
        theirs.model.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    return {"bare": bare, "transformers": PlainStep(job, theirs.model, theirs.loss, [adamw])}


class TakeTurns(pl.Callback):
    """After each block of the loop's steps, the others' steps on the same batches."""

    def __init__(self, others: dict[str, PlainStep], block: int) -> None:
        self.others = others
        self.block = block
        self.losses: list[float] = []
        self.rounds: list[dict[str, dict[str, Any]]] = []
        """Steps/s of each contestant, a dictionary a round."""
        self.since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first block starts."""
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *ignored: Any) -> None:
        """Runs as the last callback, so that what the loop does between steps counts within its block."""
        self.losses.append(pl_module.last.loss)
        step = len(self.losses)
        if step % self.block:
            return
        speeds = {"loop": self._speed()}
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        steps = StepDataset(data.stream, data.timeline, 0, 1)
        batches = [steps[index] for index in range(step - self.block, step)]
        torch.use_deterministic_algorithms(False)  # plain loops do not; in `nemotron4 train` it is the default on a CPU
        for name, take_step in self.others.items():
            self.since = time.perf_counter()
            losses = [take_step(batch) for batch in batches]
            speeds[name] = self._speed()
            for expected, found in zip(self.losses[-self.block :], losses, strict=True):
                assert abs(expected - found) < TOLERANCE[name] * expected, f"{name}: loss {found}, not {expected}"
        self.rounds.append(speeds)
        torch.use_deterministic_algorithms(pl_module.job.is_deterministic)
        self.since = time.perf_counter()

    def _speed(self) -> dict[str, Any]:
        return {"speed": self.block / (time.perf_counter() - self.since)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of all contestants, without the block that warms up."""
    make_trainer = pl.Trainer
    with tempfile.TemporaryDirectory() as root:
        job = training_job(arguments, root)
        turns = TakeTurns(plain_steps(job), arguments.block)

        def with_turns(**settings: Any) -> pl.Trainer:
            return make_trainer(**{**settings, "callbacks": [*settings["callbacks"], turns]})

        with mock.patch.object(pl, "Trainer", with_turns):
            launch(job, "")
    rounds = turns.rounds[1:]
    ratios = [each["bare"]["speed"] / each["loop"]["speed"] for each in rounds]
    milliseconds = [1e3 / each["loop"]["speed"] - 1e3 / each["bare"]["speed"] for each in rounds]
    tokens = arguments.batch * arguments.length
    return {
        "tokens_per_second": {
            name: round(statistics.median(each[name]["speed"] for each in rounds) * tokens, 1) for name in rounds[0]
        },
        "loop_over_bare": round(statistics.median(ratios), 4),
        "loop_over_bare_by_round": [round(ratio, 4) for ratio in sorted(ratios)],
        "overhead_milliseconds_per_step": round(statistics.median(milliseconds), 1),
        "times_as_fast_as_transformers": {
            name: {key: each[key] for key in ("ratio", "quartiles")}
            for name, each in (compared(rounds, "transformers") if "transformers" in rounds[0] else {}).items()
            if name != "transformers"
        },
    }


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", default="data/sample", help="a prepared corpus; its tokenizer fits the model")
    parser.add_argument("--model", default="nano_10m")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--block", type=int, default=10, help="consecutive steps; the loop logs every 10")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = {
        **description("torch", "lightning", *PEERS, threads=arguments.threads),
        "what": "fp32; seconds of the whole loop over seconds of the bare step; blocks alternate, median of rounds",
        "left_out": {} if PEERS else {"transformers": "not installed"},
        **{name: getattr(arguments, name) for name in ("model", "batch", "micro_batch", "length")},
        **{name: getattr(arguments, name) for name in ("rounds", "block")},
        "result": measure(arguments),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
