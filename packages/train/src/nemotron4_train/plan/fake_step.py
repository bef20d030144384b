"""Takes and counts an optimiser step: a fake one of a whole topology, or a real one to compare it with.

Invariant: both take the step that training takes (training_step.py, optimizers.py), on the job's own shapes.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nemotron4_common.signals import STOP_SIGNALS
from nemotron4_model import Transformer, global_grad_norm_and_clip, initialise
from nemotron4_train.job import Precision, TrainJob
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.plan.as_on_cuda import choose_as_on_cuda
from nemotron4_train.plan.counting import StepCounter
from nemotron4_train.plan.fake import fake_tensors, fsdp_tensors, local, start_fake_ranks
from nemotron4_train.plan.step_count import KINDS, Collective, DryRun
from nemotron4_train.schedule import Phase
from nemotron4_train.topology import Device
from nemotron4_train.training_step import accumulate, micro_batches, parallel_model, sums_over_ranks

_MAX_MICRO_BATCHES = 3
"""A fake step has a first, a middle and a last micro-batch; each further one is another middle one."""


def fake_step(job: TrainJob, phase: Phase) -> DryRun:
    """A step of rank 0 of the job's topology. Makes this process a fake rank, once and for all."""
    began = time.monotonic()
    topology = replace(job.topology, compile=False)
    if topology.device is Device.cuda:
        choose_as_on_cuda()
        job = replace(job, data=replace(job.data, mask_documents=False))
    if job.precision.compute is Precision.fp8:
        job = replace(job, precision=replace(job.precision, compute=Precision.bf16))
    job = replace(job, topology=topology)
    mesh = None
    if topology.num_ranks > 1 or job.precision.compute is not Precision.fp32:
        start_fake_ranks(topology.num_ranks)
        shape = topology.replicate, topology.shard, topology.tensor
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard", "tensor"))
    return replace(count_step(job, phase, mesh, is_fake=True), seconds=time.monotonic() - began)


def count_step(job: TrainJob, phase: Phase, mesh: DeviceMesh | None, *, is_fake: bool) -> DryRun:
    """Count this rank's second step; the first makes the optimiser's state.

    A real step has no `memory_bytes`: only a fake one repeats exactly, so that its peak can be looked into.
    """
    began = time.monotonic()
    local_batch = phase.global_batch_size // job.topology.num_data_ranks
    micro = min(job.topology.micro_batch_size, local_batch)
    num_micro_batches = local_batch // micro
    counted = min(num_micro_batches, _MAX_MICRO_BATCHES) if is_fake else num_micro_batches
    model = parallel_model(job, mesh)
    with fake_tensors() if is_fake else nullcontext(), StepCounter(mesh, is_fake=is_fake) as counter:
        model.to_empty(device="cpu")
        if not is_fake:
            initialise(model, job.seed, job.model)
        step = _Step(job, phase, model, counter)
        step.take(micro)
        step.count(micro * counted)
        collectives, peak_bytes, resting = counter.collectives, counter.peak_bytes, step.by_kind()
        if is_fake:
            step.count(micro * counted, counter.peak_allocation)
            assert sum(step.at_peak.values()) == peak_bytes
        if num_micro_batches > counted:
            step.count(micro * (counted - 1))
            for key, number in collectives.items():
                collectives[key] += (num_micro_batches - counted) * (number - counter.collectives[key])
    return DryRun(
        memory_bytes=step.at_peak,
        resting_bytes=resting,
        peak_bytes=peak_bytes,
        collectives=tuple(
            Collective(kind=kind, axis=axis, count=count, bytes=collectives[kind, axis, "bytes"])
            for (kind, axis, unit), count in sorted(collectives.items())
            if unit == "calls"
        ),
        num_micro_batches=num_micro_batches,
        seconds=time.monotonic() - began,
    )


class _Step:
    """An optimiser step on zeros, and what live storages are for."""

    def __init__(self, job: TrainJob, phase: Phase, model: Transformer, counter: StepCounter) -> None:
        self.job, self.phase, self.model, self.counter = job, phase, model, counter
        # The corpus may have more sources than the blend names: 8 bytes each, of one all-reduce.
        self.num_sources = len(job.blend.distributions[phase.blend].weights)
        self.optimizers = build_optimizers(model, job.optimizer)
        # In a forward or backward pass, FSDP gives the modules other parameters.
        self.parameters = list(model.parameters())
        self.at_peak: dict[str, int] = {}

    def take(self, num_sequences: int) -> None:
        """As PretrainingModule.training_step."""
        tokens_BT = torch.zeros(num_sequences, self.phase.sequence_length, dtype=torch.int64)
        cuts = micro_batches(self.job.topology, tokens_BT, tokens_BT)
        end_of_document = 1 if self.job.data.mask_documents else None

        def backward(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
            loss = self.model(inputs_BT, targets_BT, end_of_document=end_of_document)
            (loss.mean / len(cuts)).backward()
            nll_BT: Tensor = loss.nll_BT
            return nll_BT

        nll_B = accumulate(self.model, cuts, backward, self.job.topology)
        norm = global_grad_norm_and_clip(self.model, self.job.optimizer.clip_norm)
        sources_B, flags = torch.zeros_like(nll_B, dtype=torch.int64), [False] * (len(STOP_SIGNALS) + 1)
        sums_over_ranks(nll_B, sources_B, self.num_sources, norm, flags)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def count(self, num_sequences: int, at_peak: int | None = None) -> None:
        """Count a step; at allocation `at_peak`, if given, see what live storages are for."""
        self.counter.restart(None if at_peak is None else (at_peak, self._see_peak))
        self.take(num_sequences)

    def _see_peak(self) -> None:
        self.at_peak = self.by_kind()

    def by_kind(self) -> dict[str, int]:
        """Live bytes by kind."""
        gathered, unreduced = fsdp_tensors(self.model)
        parameters = self.parameters
        states = [value for optimizer in self.optimizers for of in optimizer.state.values() for value in of.values()]
        kinds = {
            "gathered": gathered,
            "gradients": [*unreduced, *(p.grad for p in parameters if p.grad is not None)],
            "optimizer": [value for value in states if isinstance(value, Tensor)],
            "parameters": [*parameters, *self.model.buffers()],
        }
        kind_of = {id(local(t).untyped_storage()): kind for kind, tensors in kinds.items() for t in tensors}
        found: Counter[str] = Counter()
        for identity, size in self.counter.live():
            found[kind_of.get(identity, "activations")] += size
        return {kind: found[kind] for kind in KINDS}
