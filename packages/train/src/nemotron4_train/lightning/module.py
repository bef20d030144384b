"""One optimiser step of pretraining, as a Lightning module.

Manual optimisation: a Lightning batch is a rank's whole share of the global batch, cut here into micro-batches, so
that only the timeline defines a step, and gradients are reduced once, after the last micro-batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor

from nemotron4_common.signals import STOP_SIGNALS
from nemotron4_model import (
    Transformer,
    begin_micro_batch,
    global_grad_norm_and_clip,
    grad_norms,
    initialise,
    parallelise,
)
from nemotron4_train.checkpoints.start_from import Parent
from nemotron4_train.compile_check import check_compiled_gradients
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.lightning.data import StepBatch
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.ranks import num_ranks
from nemotron4_train.schedule import StepPlan, Timeline
from nemotron4_train.step_guard import StepGuard


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
        with torch.device("meta"):
            model = Transformer(job.model)
        parallelise(
            model,
            mesh,
            recompute=job.topology.recompute,
            compile=job.topology.compile,
            param_dtype=job.precision.compute.dtype.torch_dtype,
            reduce_dtype=job.precision.reduce.torch_dtype,
            float8=job.precision.compute is Precision.fp8,
            reshard_after_forward=self._reshards,
        )
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
        nll: list[Tensor] = []
        for index, (inputs_BT, targets_BT) in enumerate(cuts):
            begin_micro_batch(model, is_last=index == len(cuts) - 1, reshard=self._reshards)
            nll.append(self._backward(model, inputs_BT, targets_BT, len(cuts)).mean(dim=1))
        return torch.cat(nll)

    def _micro_batches(self, batch: StepBatch) -> list[tuple[Tensor, Tensor]]:
        micro = min(self.job.topology.micro_batch_size, len(batch["inputs_BT"]))
        return list(zip(torch.split(batch["inputs_BT"], micro), torch.split(batch["targets_BT"], micro), strict=True))

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
        begin_micro_batch(model, is_last=True, reshard=self._reshards)
        dtype = self.job.precision.compute.dtype
        check_compiled_gradients(model, lambda: self._backward(model, inputs_BT, targets_BT, 1), dtype)
        self._checked_shapes.add(inputs_BT.shape)

    @property
    def _reshards(self) -> bool:
        """Whether gathered weights are freed after each forward and backward; alone, a rank would only cast again."""
        return self.job.topology.reshard_after_forward and self.job.topology.shard > 1

    def _result(self, plan: StepPlan, grad_norm: Tensor, nll_B: Tensor, sources_B: Tensor) -> StepResult:
        """The step's losses by source, and what ranks decide together: the one place where a step waits for the device.

        Sums over the ranks that read different samples. The norm is reduced with them, and so are the flags (how many
        ranks received each signal, and how many are saving), so all ranks decide identically.
        """
        received, num_sources = self.received_signal(), len(self.source_names)
        flags = [*(number == received for number in STOP_SIGNALS), self.is_saving()]
        totals = torch.zeros(2, num_sources + 1 + len(flags), device=nll_B.device)
        totals[0].index_add_(0, sources_B, nll_B)
        totals[1].index_add_(0, sources_B, torch.ones_like(nll_B))
        totals[0, num_sources], totals[1, num_sources] = grad_norm, 1
        for column, flag in enumerate(flags, start=num_sources + 1):
            if flag:
                totals[1, column].fill_(1)  # by a kernel: a copy from the host would wait for the device
        if num_ranks() > 1:
            dist.all_reduce(totals)
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
