"""What happens between steps: validation, checkpoints, and stopping at a step boundary; recorder.py records.

Each callback acts after the step that `module.last` describes. Validation and checkpoints are collectives: every rank
enters them at the same step because the timeline, not a clock, decides when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from nemotron4_data import Corpus, TokenStream
from nemotron4_data.ledger import Ledger, make_ledger
from nemotron4_eval.heldout.bits_per_byte import evaluate_bits_per_byte
from nemotron4_eval.heldout.text import domain_of
from nemotron4_train.checkpoints.reading import CheckpointState, describe_model
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import TrainerConfig, TrainJob
from nemotron4_train.lightning.module import PretrainingModule, StepResult
from nemotron4_train.lightning.strategy import data_rank
from nemotron4_train.ranks import num_ranks, rank
from nemotron4_train.reporting.metrics import MetricsFile
from nemotron4_train.reporting.progress import TrainingProgress
from nemotron4_train.run_directory import read_record, write_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.stop_signal import StopSignal


class AfterStep(pl.Callback):
    """A callback that acts after each optimiser step."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass the step's result to `after_step`."""
        assert isinstance(pl_module, PretrainingModule)
        assert pl_module.last is not None
        self.after_step(trainer, pl_module, pl_module.last)

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Act on the step that `result` describes."""
        raise AssertionError("abstract")


class Validator(AfterStep):
    """Held-out bits per byte by domain, at an interval and at the last step; ranks share the text, rank 0 writes."""

    def __init__(
        self,
        config: TrainerConfig,
        corpus: Corpus,
        timeline: Timeline,
        metrics: MetricsFile | None,
        progress: TrainingProgress | None,
    ) -> None:
        self.config = config
        self.corpus = corpus
        self.timeline = timeline
        self.metrics = metrics
        self.progress = progress
        self.overall: float | None = None
        self._heldout_bytes = {name: corpus.sizes(name, "heldout")["bytes"] for name in corpus.heldout_names}

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Validate at the interval, and at the last step."""
        step = result.plan.step + 1
        if step % self.config.validation_interval_steps and step != self.timeline.num_steps:
            return
        assert module.model is not None
        module.model.eval()
        window, topology = result.plan.sequence_length, module.job.topology
        with torch.no_grad():
            found = evaluate_bits_per_byte(
                module.model,
                self.corpus,
                window=window,
                stride=window,
                max_bytes_per_source=self.config.validation_bytes_per_source,
                device=module.device,
                length_multiple=topology.tensor,
                part=(data_rank(module.device_mesh), topology.num_data_ranks),
            )
        module.model.train()
        sums = sums_over_ranks(list(found.nll_nats.values()), topology.tensor, module.device)
        found = replace(found, nll_nats=dict(zip(found.nll_nats, sums, strict=True)))
        row = self._estimate(found.sources)
        self.overall = row["overall"]
        if self.metrics is None or self.progress is None:
            return
        self.metrics.append(
            {"step": step, "tokens": result.plan.tokens_after} | {name: f"{value:.6f}" for name, value in row.items()}
        )
        self.progress.note(
            f"step {step}: held-out bits per byte " + "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        )
        for logger in trainer.loggers:
            logger.log_metrics({f"validation/{name}": value for name, value in row.items()}, step=step)

    def _estimate(self, bits_by_source: dict[str, float]) -> dict[str, float]:
        """Overall and by domain: sources weighted by all their held-out bytes, of which a validation reads a part."""
        bits: dict[str, float] = defaultdict(float)
        num_bytes: dict[str, int] = defaultdict(int)
        for source, value in bits_by_source.items():
            for name in ("overall", domain_of(source)):
                bits[name] += value * self._heldout_bytes[source]
                num_bytes[name] += self._heldout_bytes[source]
        return {name: total / num_bytes[name] for name, total in bits.items()}


def sums_over_ranks(addends: list[float], tensor: int, device: torch.device) -> list[float]:
    """Sums, in fp64, over the data ranks; equal on every rank. The `tensor` ranks of a group hold the same addends."""
    if num_ranks() == 1:
        return addends
    sums = torch.tensor(addends, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return (sums / tensor).tolist()


class Checkpointer(AfterStep):
    """Saves at an interval, at the end of phases, at the last step and when the run is asked to stop.

    The data ledger is saved too. A save runs while training continues; the run's end, a stop and an error wait for it.
    """

    def __init__(
        self,
        run_directory: Path,
        job: TrainJob,
        timeline: Timeline,
        corpus: Corpus,
        stream: TokenStream,
        ledger: Ledger | None,
        started_from: Mapping[str, Any] | None,
    ) -> None:
        """`ledger` is that of the checkpoint that the run resumes from; `started_from` goes into every checkpoint."""
        self.run_directory = run_directory
        self.job = job
        self.timeline = timeline
        self.corpus = corpus
        self.stream = stream
        self.ledger = ledger
        self.started_from = started_from
        ends = {plan.first_step + plan.num_steps for plan in timeline.phases}
        self.phase_ends = ends if job.trainer.keep_phase_ends else set()
        self.writer: CheckpointWriter | None = None
        self.metrics: list[MetricsFile] = []
        """Files of this rank that have the rows of all steps before a checkpoint when it is written."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the writer, now that the ranks have joined."""
        assert isinstance(pl_module, PretrainingModule)
        self.writer = CheckpointWriter(
            self.run_directory,
            keep=self.job.trainer.keep_checkpoints,
            keep_steps=self.phase_ends,
            asynchronous=self.job.trainer.async_checkpoint,
            on_commit=self._record,
        )
        pl_module.is_saving = self.writer.is_writing

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Complete the save in progress once it has ended on every rank, and start one when due."""
        assert self.writer is not None
        if not result.is_saving:
            self.writer.wait()
        step = result.plan.step + 1
        last = step == self.timeline.num_steps or trainer.should_stop
        if last or step % self.job.trainer.save_interval_steps == 0 or step in self.phase_ends:
            for logger in trainer.loggers:
                logger.save()  # a run that resumes from the checkpoint logs only what follows it
            for file in self.metrics:
                file.flush()
            self.save(module, result)
        if last:
            self.writer.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Complete the save in progress; if it fails, that is added as a note to the error that ends the run."""
        try:
            if self.writer is not None:
                self.writer.close()
        except Exception as error:
            exception.add_note(str(error))

    def save(self, module: PretrainingModule, result: StepResult) -> None:
        """Write the checkpoint of the step just done."""
        assert module.model is not None
        assert self.writer is not None
        next_sample = result.plan.first_sample + result.plan.global_batch_size
        self.ledger = make_ledger(self.stream, self.corpus, next_sample, self.ledger)
        state = CheckpointState(
            step=result.plan.step + 1,
            tokens=result.plan.tokens_after,
            phase=result.plan.phase,
            job_digest=self.job.digest(),
            model=describe_model(self.job.model),
            guard=module.guard.state,
            started_from=self.started_from,
        )
        self.writer.save(state, module.model, module.raw_optimizers, self.ledger.to_json())

    def _record(self, step: int) -> None:
        if rank() == 0:
            record = read_record(self.run_directory)
            assert record is not None
            record.step = step
            write_record(self.run_directory, record)


class StopOnSignal(AfterStep):
    """Stops after a step in which any rank was told to; placed before the checkpointer, which then saves."""

    def __init__(self, stop: StopSignal) -> None:
        self.stop = stop
        self.agreed: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's handlers, which act at once, and its agreement on them: a broadcast and a read a step."""
        assert isinstance(pl_module, PretrainingModule)
        self.stop.listen()
        pl_module.received_signal = lambda: self.stop.received
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]  # as said

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Stop if the ranks agreed on it."""
        if result.stop_signal is not None:
            self.agreed = result.stop_signal
            trainer.should_stop = True
