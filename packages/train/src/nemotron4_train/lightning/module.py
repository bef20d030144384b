"""One optimiser step of pretraining, as a Lightning module.

Manual optimisation: a Lightning batch is a rank's whole share of the global batch, cut here into micro-batches, so
that only the timeline defines a step, and the topology says after which of them gradients are reduced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemotron4_common.signals import STOP_SIGNALS
from nemotron4_model import (
    Transformer,
    begin_micro_batch,
    global_grad_norm_and_clip,
    grad_norms,
    initialise,
)
from nemotron4_train.checkpoints.start_from import Parent
from nemotron4_train.compile_check import check_compiled_gradients
from nemotron4_train.job import TrainJob
from nemotron4_train.lightning.data import StepBatch
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.schedule import StepPlan, Timeline
from nemotron4_train.step_guard import StepGuard
from nemotron4_train.training_step import accumulate, micro_batches, parallel_model, reshards, sums_over_ranks


class SourceLoss(NamedTuple):
    """The loss of one source in a global batch."""

    nll: float
    """Negative log-likelihood summed over its tokens, in nats."""
    tokens: int


@dataclass(frozen=True)
class StepResult:
    """What a step did; equal on every rank."""

    plan: StepPlan
    loss: float
    """Mean negative log-likelihood over the global batch, in nats per token."""
    learning_rate: float
    """That of the blocks' matrices."""
    grad_norm: float
    """Global norm before clipping."""
    skipped: str | None
    """Why the step changed no weights; None if it was not skipped."""
    sources: dict[str, SourceLoss]
    """Losses of the sources that the batch drew from."""
    stop_signal: int | None = None
    """A signal that any rank had received."""
    is_saving: bool = False
    """Whether any rank was still writing a checkpoint."""


class PretrainingModule(pl.LightningModule):
    """Builds the model on the mesh and takes steps over the timeline."""

    def __init__(
        self,
        job: TrainJob,
        timeline: Timeline,
        source_names: list[str],
        first_step: int,
        eos_id: int,
        guard: StepGuard,
        parent: Parent | None = None,
    ) -> None:
        """`parent` is what the weights begin with; None draws them."""
        super().__init__()
        self.automatic_optimization = False
        self.job = job
        self.timeline = timeline
        self.next_step = first_step
        self.guard = guard
        self._parent = parent
        self._end_of_document = eos_id if job.data.mask_documents else None
        self.last: StepResult | None = None
        self.model: Transformer | None = None
        self.raw_optimizers: list[torch.optim.Optimizer] = []
        self.source_names = source_names
        self.received_signal: Callable[[], int | None] = lambda: None
        """The signal that this rank has received; set by the callback that stops the run."""
        self.is_saving: Callable[[], bool] = lambda: False
        """Whether this rank is still writing a checkpoint; set by the callback that saves."""
        self._checked_shapes: set[torch.Size] = set()

    def configure_model(self) -> None:
        """Meta device -> mesh -> storage -> initial weights: each rank its part of the same full tensors."""
        if self.model is not None:
            return
        job, mesh = self.job, self.device_mesh
        model = parallel_model(job, mesh)
        model.to_empty(device=self.trainer.strategy.root_device)
        if self._parent is None:
            initialise(model, job.seed, job.model)
        else:
            self._parent.load(model)
        self.model = model

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Build the optimisers that the job configures."""
        assert self.model is not None
        self.raw_optimizers = build_optimizers(self.model, self.job.optimizer)
        return self.raw_optimizers

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Accumulate gradients over micro-batches, clip, step; RuntimeError when too many were skipped in a row."""
        plan = self.timeline.step(self.next_step)
        for optimizer in self.raw_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate_fraction * group["peak_lr"]
        assert self.model is not None
        if self.job.topology.compile and self.job.topology.tensor > 1:
            self._check_compiled(self.model, batch)
        nll_B = self._accumulate(self.model, batch)
        grad_norm = global_grad_norm_and_clip(self.model, self.job.optimizer.clip_norm)
        result = self._result(plan, grad_norm, nll_B, batch["sources_B"])
        if result.skipped is not None and self.guard.exhausted:
            losses = {name: source.nll / source.tokens for name, source in result.sources.items()}
            raise RuntimeError(self.guard.diagnosis(plan.step + 1, result.skipped, losses, grad_norms(self.model)))
        for optimizer in self.raw_optimizers:
            if result.skipped is None:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.last = result
        self.next_step += 1

    def _accumulate(self, model: Transformer, batch: StepBatch) -> Tensor:
        """Accumulate gradients of the mean loss; returns each sample's mean negative log-likelihood (B,)."""
        cuts = self._micro_batches(batch)
        backward = partial(self._backward, model, num_micro_batches=len(cuts))
        return accumulate(model, cuts, backward, self.job.topology)

    def _micro_batches(self, batch: StepBatch) -> list[tuple[Tensor, Tensor]]:
        return micro_batches(self.job.topology, batch["inputs_BT"], batch["targets_BT"])

    def _backward(self, model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, num_micro_batches: int) -> Tensor:
        """Add one micro-batch's gradients; returns nll_BT."""
        loss = model(inputs_BT, targets_BT, end_of_document=self._end_of_document)
        self.manual_backward(loss.mean / num_micro_batches)
        nll_BT: Tensor = loss.nll_BT
        return nll_BT

    def _check_compiled(self, model: Transformer, batch: StepBatch) -> None:
        """Check the compiled gradients of each shape on its first micro-batch; ValueError when they are wrong."""
        inputs_BT, targets_BT = self._micro_batches(batch)[0]
        if inputs_BT.shape in self._checked_shapes:
            return
        begin_micro_batch(model, is_last=True, reshard=reshards(self.job.topology))
        dtype = self.job.precision.compute.dtype
        check_compiled_gradients(model, lambda: self._backward(model, inputs_BT, targets_BT, 1), dtype)
        self._checked_shapes.add(inputs_BT.shape)

    def _result(self, plan: StepPlan, grad_norm: Tensor, nll_B: Tensor, sources_B: Tensor) -> StepResult:
        """The step's losses by source, and what ranks decide together: the one place where a step waits for the device.

        Sums over the ranks that read different samples. The norm is reduced with them, and so are the flags (how many
        ranks received each signal, and how many are saving), so all ranks decide identically.
        """
        received, num_sources = self.received_signal(), len(self.source_names)
        flags = [*(number == received for number in STOP_SIGNALS), self.is_saving()]
        totals = sums_over_ranks(nll_B, sources_B, num_sources, grad_norm, flags)
        sums, counts = (totals / self.job.topology.tensor).tolist()  # ranks of a tensor group hold the same samples
        *told, is_saving = (count > 0 for count in counts[num_sources + 1 :])
        norm = sums[num_sources] / counts[num_sources]
        del sums[num_sources:], counts[num_sources:]
        loss, length = sum(sums) / sum(counts), plan.sequence_length
        return StepResult(
            plan=plan,
            loss=loss,
            learning_rate=plan.learning_rate_fraction * self.job.optimizer.matrix_lr,
            grad_norm=norm,
            skipped=self.guard.refuse(plan.phase, loss, norm),
            sources={
                name: SourceLoss(total * length, round(count) * length)
                for name, total, count in zip(self.source_names, sums, counts, strict=True)
                if count
            },
            stop_signal=max(itertools.compress(STOP_SIGNALS, told), default=None),
            is_saving=is_saving,
        )
