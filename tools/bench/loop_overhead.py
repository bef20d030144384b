"""Time of the whole training loop relative to the bare model step, on the CPU.

The loop is that of `nemotron4 train`: Lightning, data order, records, progress, TensorBoard, signals. The bare step is
the indispensable part of training: forward and backward of each micro-batch, clipping, optimiser. Both train the same
model from the same weights on the same micro-batches, in one process, in alternating blocks of steps; their losses are
checked to agree. The ratio is the median over rounds of loop to bare within a round. Validation and checkpoints fall
outside the blocks.

    python tools/bench/loop_overhead.py --data data/sample --output tools/bench/results/loop_overhead.json
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from machine import description, publish

from nemotron4_data import Corpus
from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_model import ModelConfig, Transformer, global_grad_norm_and_clip, initialise
from nemotron4_train.job import (
    DataConfig,
    Precision,
    PrecisionConfig,
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
        precision=PrecisionConfig(compute=Precision[arguments.precision]),
        trainer=TrainerConfig(
            save_interval_steps=num_steps, validation_interval_steps=num_steps, validation_bytes_per_source=1
        ),
        launcher=LauncherConfig(num_threads=arguments.threads),
    )


class BareStep:
    """A plain loop's step of the same model, from a batch to its loss."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.model = Transformer(job.model)
        initialise(self.model, job.seed, job.model)
        self.optimizers = build_optimizers(self.model, job.optimizer)

    def __call__(self, batch: StepBatch) -> float:
        """Take the step."""
        micro = self.job.topology.micro_batch_size
        cuts = list(zip(batch["inputs_BT"].split(micro), batch["targets_BT"].split(micro), strict=True))
        losses = []
        for inputs_BT, targets_BT in cuts:
            low = self.job.precision.compute is Precision.bf16
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = self.model(inputs_BT, targets_BT).mean
            (loss / len(cuts)).backward()
            losses.append(loss.detach())
        global_grad_norm_and_clip(self.model, self.job.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).mean())


class TakeTurns(pl.Callback):
    """After each block of the loop's steps, the bare steps on the same batches."""

    def __init__(self, bare: BareStep, block: int) -> None:
        self.bare = bare
        self.block = block
        self.losses: list[float] = []
        self.loop_seconds: list[float] = []
        self.bare_seconds: list[float] = []
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
        self.loop_seconds.append(time.perf_counter() - self.since)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        steps = StepDataset(data.stream, data.timeline, 0, 1)
        batches = [steps[index] for index in range(step - self.block, step)]
        start = time.perf_counter()
        losses = [self.bare(batch) for batch in batches]
        self.bare_seconds.append(time.perf_counter() - start)
        for ours, bare in zip(self.losses[-self.block :], losses, strict=True):
            assert abs(ours - bare) < 1e-4 * bare, f"the two do different work: losses {ours} and {bare}"
        self.since = time.perf_counter()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of both contestants, without the warm-up block."""
    make_trainer = pl.Trainer
    with tempfile.TemporaryDirectory() as root:
        job = training_job(arguments, root)
        turns = TakeTurns(BareStep(job), arguments.block)

        def with_turns(**settings: Any) -> pl.Trainer:
            return make_trainer(**{**settings, "callbacks": [*settings["callbacks"], turns]})

        with mock.patch.object(pl, "Trainer", with_turns):
            launch(job, "")
    loop, bare = turns.loop_seconds[1:], turns.bare_seconds[1:]
    ratios = [ours / plain for ours, plain in zip(loop, bare, strict=True)]
    return {
        "loop_milliseconds_per_step": round(statistics.median(loop) / arguments.block * 1e3, 1),
        "bare_milliseconds_per_step": round(statistics.median(bare) / arguments.block * 1e3, 1),
        "loop_over_bare": round(statistics.median(ratios), 4),
        "loop_over_bare_by_round": [round(ratio, 4) for ratio in sorted(ratios)],
    }


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", default="data/sample", help="a prepared corpus; its tokenizer fits the model")
    parser.add_argument("--model", default="nano_30m")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--block", type=int, default=10, help="consecutive steps; the loop logs every 10")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document = {
        **description("torch", "lightning", threads=arguments.threads),
        "what": "seconds of the whole loop over seconds of the bare step; blocks alternate, median of rounds",
        **{name: getattr(arguments, name) for name in ("model", "precision", "batch", "micro_batch", "length")},
        **{name: getattr(arguments, name) for name in ("rounds", "block")},
        "result": measure(arguments),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
