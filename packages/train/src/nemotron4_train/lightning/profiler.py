"""torch.profiler over a few optimiser steps: one trace per rank in <run>/profile/, for Perfetto or chrome://tracing."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from nemotron4_common.staging import sync
from nemotron4_train.job import TrainerConfig
from nemotron4_train.lightning.callbacks import AfterStep
from nemotron4_train.lightning.module import PretrainingModule, StepResult
from nemotron4_train.reporting.progress import TrainingProgress


class StepProfiler(AfterStep):
    """Records the steps from trainer.profile_first_step on; the step before them warms up the profiler."""

    def __init__(
        self, config: TrainerConfig, run_directory: Path, rank: int, progress: TrainingProgress | None
    ) -> None:
        assert config.profile_first_step is not None
        self.first_step = config.profile_first_step
        self.num_steps = config.profile_num_steps
        self.run_directory = run_directory
        self.rank = rank
        self.progress = progress
        self._profile: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start if the run begins with the warm-up step; print a note if it begins after it."""
        assert isinstance(pl_module, PretrainingModule)
        if self.progress is not None and pl_module.next_step > self.first_step - 2:
            self.progress.note(
                f"trainer.profile_first_step ({self.first_step}): no profile, because the run resumes after step"
                f" {pl_module.next_step}; set it to {pl_module.next_step + 2} or later"
            )
        self._start_before(pl_module.next_step)

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Start, or count a step."""
        if self._profile is not None:
            self._profile.step()
        self._start_before(module.next_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was recorded if the run ends early."""
        if self._profile is not None:
            self._profile.stop()

    def _start_before(self, next_step: int) -> None:
        """Start when step `next_step` (from 0) is the one that warms up."""
        if next_step != self.first_step - 2:
            return
        cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda],
            schedule=schedule(wait=0, warmup=1, active=self.num_steps, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,  # there is one cycle; without this, torch 2.11 warns that it drops those before
        )
        self._profile.start()

    def _write(self, recorded: profile) -> None:
        directory = self.run_directory / "profile"
        directory.mkdir(exist_ok=True)
        path = directory / f"step-{self.first_step}-rank-{self.rank}.json.gz"
        staged = path.with_name(f".partial-{path.name}")  # torch compresses by the file's extension
        recorded.export_chrome_trace(str(staged))
        sync(staged)
        staged.replace(path)
        if self.progress is not None:
            self.progress.note(
                f"profile of {self.num_steps} steps from {self.first_step}, one file per rank: {directory}"
                " (open in ui.perfetto.dev)"
            )
