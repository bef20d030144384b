"""One optimiser step of pretraining, as a Lightning module.

Manual optimisation: a Lightning batch is a rank's whole share of the global batch, cut here into micro-batches, so
that the timeline alone says what a step is and gradients are reduced once, after the last micro-batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from nemotron4_model import Transformer, global_grad_norm_and_clip, initialise, parallelise
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.lightning.data import StepBatch
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.schedule import StepPlan, Timeline

_DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp8: torch.bfloat16}


@dataclass(frozen=True)
class StepResult:
    """What a step did; equal on every rank."""

    plan: StepPlan
    loss: float
    """Mean negative log-likelihood over the global batch, nats a token."""
    learning_rate: float
    grad_norm: float
    """Global norm before clipping."""
    domain_losses: dict[str, float]
    """Loss by domain, of the domains that the batch drew from."""


class PretrainingModule(pl.LightningModule):
    """Builds the model on the mesh and takes steps over the timeline."""

    def __init__(
        self, job: TrainJob, timeline: Timeline, source_names: list[str], first_step: int, eos_id: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.job = job
        self.timeline = timeline
        self.next_step = first_step
        self._end_of_document = eos_id if job.data.mask_documents else None
        self.last: StepResult | None = None
        self.model: Transformer | None = None
        self.raw_optimizers: list[torch.optim.Optimizer] = []
        domains = [name.split("/")[0] for name in source_names]
        self.domain_names = sorted(set(domains))
        self._domain_of_source = torch.tensor([self.domain_names.index(domain) for domain in domains])

    def configure_model(self) -> None:
        """Meta device -> mesh -> storage -> initial weights (each rank its part of the same full tensors)."""
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
            param_dtype=_DTYPES[job.precision.compute],
            reduce_dtype=_DTYPES[job.precision.reduce],
            float8=job.precision.compute is Precision.fp8,
        )
        model.to_empty(device=self.trainer.strategy.root_device)
        initialise(model, job.seed, job.model)
        self.model = model

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """As the job says."""
        assert self.model is not None
        self.raw_optimizers = build_optimizers(self.model, self.job.optimizer)
        return self.raw_optimizers

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Accumulate gradients over micro-batches, clip, step."""
        plan = self.timeline.step(self.next_step)
        for optimizer in self.raw_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate_fraction * group["peak_lr"]
        assert self.model is not None
        nll_B = self._accumulate(self.model, batch)
        grad_norm = global_grad_norm_and_clip(self.model, self.job.optimizer.clip_norm)
        for optimizer in self.raw_optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        learning_rate = plan.learning_rate_fraction * self.job.optimizer.lr
        self.last = self._result(plan, learning_rate, float(grad_norm), nll_B, batch["sources_B"])
        self.next_step += 1

    def _accumulate(self, model: Transformer, batch: StepBatch) -> Tensor:
        """Gradients of the mean loss; returns each sample's mean negative log-likelihood (B,)."""
        micro = min(self.job.topology.micro_batch_size, len(batch["inputs_BT"]))
        cuts = list(zip(torch.split(batch["inputs_BT"], micro), torch.split(batch["targets_BT"], micro), strict=True))
        nll: list[Tensor] = []
        for index, (inputs_BT, targets_BT) in enumerate(cuts):
            if isinstance(model, FSDPModule):
                model.set_requires_gradient_sync(index == len(cuts) - 1)
            with self._autocast():
                loss = model(inputs_BT, targets_BT, end_of_document=self._end_of_document)
            self.manual_backward(loss.mean / len(cuts))
            nll.append(loss.nll_BT.mean(dim=1))
        return torch.cat(nll)

    def _autocast(self) -> AbstractContextManager[Any]:
        """bf16, and around float8, on one device; on a mesh FSDP2 casts the parameters itself."""
        if self.job.precision.compute is not Precision.fp32 and self.device_mesh is None:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _result(
        self, plan: StepPlan, learning_rate: float, grad_norm: float, nll_B: Tensor, sources_B: Tensor
    ) -> StepResult:
        """Sum loss and samples by domain over the ranks that read different samples."""
        domains_B = self._domain_of_source.to(sources_B.device)[sources_B]
        totals = torch.zeros(2, len(self.domain_names), device=nll_B.device)
        totals[0].index_add_(0, domains_B, nll_B)
        totals[1].index_add_(0, domains_B, torch.ones_like(nll_B))
        if dist.is_initialized():
            dist.all_reduce(totals)  # ranks of one tensor group hold the same samples: sums and counts scale alike
        sums, counts = totals.tolist()
        return StepResult(
            plan=plan,
            loss=sum(sums) / sum(counts),
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            domain_losses={
                name: total / count for name, total, count in zip(self.domain_names, sums, counts, strict=True) if count
            },
        )
