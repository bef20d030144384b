"""Faults for tests of training: a model that goes wrong at chosen steps, by hooks on its first block."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from device_waits import Collectives, Reads

from nemotron4_train.job import TrainJob
from nemotron4_train.lightning.fit import fit
from nemotron4_train.lightning.module import PretrainingModule
from nemotron4_train.stop_signal import StopSignal

Faults = Mapping[int, tuple[str, float]]
"""By step (from 0): "output" or "gradient" of the block, and what it is multiplied by."""


def with_faults(faults: Faults) -> Any:
    """A `configure_model` of PretrainingModule that adds the faults."""
    sound = PretrainingModule.configure_model

    def configure_model(self: PretrainingModule) -> None:
        def hook(block: Any, inputs: Any, output: Any) -> Any:
            what, factor = faults.get(self.next_step, ("", 1.0)) if block.training else ("", 1.0)
            if what == "gradient":
                output.register_hook(lambda gradient: gradient * factor)
            return output * factor if what == "output" else None

        sound(self)
        self.model.blocks[0].register_forward_hook(hook)

    return configure_model


def fit_with_faults(
    rank: int, world_size: int, job: TrainJob, directory: Path, faults_by_rank: Mapping[int, Faults]
) -> tuple[list[tuple[str, str, str | None]], list[list[str]], list[list[str]], list[int]]:
    """For run_distributed: (loss, gradient norm, reason for skipping) of each step, figures to the last bit.

    Then what the rank read in each step, what it read and what collectives it called after each but the last, and the
    number of tensors before each, those that existed when garbage was first collected left out.
    """
    seen, in_steps, after_steps, num_tensors = [], [], [], []
    sound, between = PretrainingModule.training_step, ExitStack()

    def training_step(self: PretrainingModule, batch: Any, batch_idx: int) -> None:
        between.close()
        num_tensors.append(sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()))
        with Reads() as reads:
            sound(self, batch, batch_idx)
        in_steps.append(reads.found)
        seen.append((self.last.loss.hex(), self.last.grad_norm.hex(), self.last.skipped))
        if self.next_step < self.timeline.num_steps:
            reads, collectives = between.enter_context(Reads()), between.enter_context(Collectives())
            between.callback(lambda: after_steps.append(reads.found + collectives.found))

    PretrainingModule.training_step = training_step
    PretrainingModule.configure_model = with_faults(faults_by_rank.get(rank, {}))
    fit(job, directory, StopSignal())
    return seen, in_steps, after_steps, num_tensors
