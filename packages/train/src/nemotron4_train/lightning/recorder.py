"""What rank 0 records while a run trains: rows of metrics, loggers, the progress line, report.html."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from nemotron4_train.job import TrainJob
from nemotron4_train.lightning.callbacks import AfterStep
from nemotron4_train.lightning.module import PretrainingModule, StepResult
from nemotron4_train.reporting.metrics import STEP_COLUMNS, MetricsFile
from nemotron4_train.reporting.progress import Speed, TrainingProgress
from nemotron4_train.reporting.report import write_report
from nemotron4_train.reporting.source_metrics import DOMAIN_COLUMNS, SOURCE_COLUMNS, SourceMetrics

_FIRST_REPORT_SECONDS = 60


class StepRecorder(AfterStep):
    """metrics.csv (one row per step), domains.csv and sources.csv (at an interval), loggers and the progress line."""

    def __init__(
        self,
        run_directory: Path,
        first_step: int,
        progress: TrainingProgress,
        source_metrics: SourceMetrics,
        interval_steps: int,
    ) -> None:
        self.progress = progress
        self.source_metrics = source_metrics
        self.interval_steps = interval_steps
        self.steps = MetricsFile(run_directory / "metrics.csv", STEP_COLUMNS, first_step)
        self.domains = MetricsFile(run_directory / "domains.csv", DOMAIN_COLUMNS, first_step)
        self.sources = MetricsFile(run_directory / "sources.csv", SOURCE_COLUMNS, first_step)
        self.files = [self.steps, self.domains, self.sources]

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Record the step."""
        plan = result.plan
        step = plan.step + 1
        speed = self.progress.advance(plan, result.loss)
        self.steps.append(
            {
                "step": step,
                "tokens": plan.tokens_after,
                "loss": _figure(result.loss),
                "lr": _figure(result.learning_rate),
                "global_batch_size": plan.global_batch_size,
                "phase": plan.phase,
                "grad_norm": _figure(result.grad_norm),
                "skipped": int(result.skipped is not None),
                "tokens_per_second": f"{speed.tokens_per_second:.1f}",
                "mfu": "" if speed.mfu is None else f"{speed.mfu:.4g}",
                "peak_memory_bytes": _peak_memory_bytes(module),
            }
        )
        if result.skipped is not None:
            skipped = module.guard.state
            self.progress.note(
                f"step {step} skipped: {result.skipped}; {skipped.num_skipped_in_a_row} in a row,"
                f" {skipped.num_skipped} in all"
            )
        self.source_metrics.add(result.sources)
        if step % self.interval_steps == 0:
            values = _step_values(result, speed, module.guard.state.num_skipped)
            self._log(trainer, values | self._record_sources(result), step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the sources of the steps since the last interval, so that a stopped run loses none."""
        assert isinstance(pl_module, PretrainingModule)
        if pl_module.last is not None and not self.source_metrics.is_empty:
            self._log(trainer, self._record_sources(pl_module.last), pl_module.last.plan.step + 1)

    def _log(self, trainer: pl.Trainer, values: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)

    def _record_sources(self, result: StepResult) -> dict[str, float]:
        """Write the rows of domains and sources; returns their figures by their names in loggers."""
        plan = result.plan
        place = {"step": plan.step + 1, "tokens": plan.tokens_after}
        domains, sources = self.source_metrics.take(plan.first_sample + plan.global_batch_size)
        for file, rows in ((self.domains, domains), (self.sources, sources)):
            for row in rows:
                shown = {key: _figure(value) if isinstance(value, float) else value for key, value in row.items()}
                file.append(place | shown)
        return _logged("domain", domains) | _logged("source", sources)

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as each:  # even if another fails
            for file in self.files:
                each.callback(file.close)


class ReportRefresher(AfterStep):
    """Writes report.html during the run, after validations and checkpoints, in at most a hundredth of the time.

    Drawing holds up training, so the first report waits a minute, and each later one until a hundred times the last
    one's duration has passed.
    """

    def __init__(self, job: TrainJob, run_directory: Path, num_steps: int, progress: TrainingProgress) -> None:
        self.job = job
        self.run_directory = run_directory
        self.num_steps = num_steps
        self.progress = progress
        self._due_seconds = time.monotonic() + _FIRST_REPORT_SECONDS

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Write the report when there is something new and it is due; the last step's is written after training."""
        step, started = result.plan.step + 1, time.monotonic()
        config = self.job.trainer
        has_news = step % config.validation_interval_steps == 0 or step % config.save_interval_steps == 0
        if not has_news or step == self.num_steps or started < self._due_seconds:
            return
        try:
            write_report(self.run_directory, self.job)
        except (OSError, ValueError) as error:  # a full disk, which the checkpointer handles, or a damaged file
            self.progress.note(f"step {step}: report.html was not refreshed: {error}")
        ended = time.monotonic()
        self._due_seconds = ended + 100 * (ended - started)
        self.progress.resume_clock()


def _peak_memory_bytes(module: PretrainingModule) -> int:
    """Of this rank since it started: what is allocated on its GPU, or on a CPU all that is resident, libraries too."""
    if module.device.type == "cuda":
        return torch.cuda.max_memory_allocated(module.device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _figure(value: float) -> str:
    return f"{value:.9g}"


def _step_values(result: StepResult, speed: Speed, num_skipped: int) -> dict[str, float]:
    values = {
        "train/loss": result.loss,
        "train/learning_rate": result.learning_rate,
        "train/grad_norm": result.grad_norm,
        "train/skipped_steps": num_skipped,
        "train/global_batch_size": result.plan.global_batch_size,
        "train/tokens": result.plan.tokens_after,
        "train/tokens_per_second": speed.tokens_per_second,
    }
    return values if speed.mfu is None else values | {"train/mfu": speed.mfu}


def _logged(kind: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    figures = ("loss", "bits_per_byte", "epochs")
    return {f"{kind}_{key}/{row[kind]}": row[key] for row in rows for key in figures if row.get(key) is not None}
