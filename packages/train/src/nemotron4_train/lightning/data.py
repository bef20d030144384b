"""Batches by optimiser step: step k's samples are fixed by the timeline; a rank reads its share of them.

Invariant: the samples of a global batch do not depend on ranks, micro-batches or restarts; the loader's whole state
is the step it starts from.
"""

from __future__ import annotations

from typing import TypedDict

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemotron4_data import TokenStream
from nemotron4_train.lightning.strategy import data_rank
from nemotron4_train.schedule import Timeline
from nemotron4_train.stop_signal import ignore_stop_signals


class StepBatch(TypedDict):
    """One rank's share of a global batch."""

    inputs_BT: Tensor
    targets_BT: Tensor
    sources_B: Tensor
    """Index of each sample's source in the stream's source_names."""


class StepDataset(Dataset[StepBatch]):
    """Index: an optimiser step. Item: this data-parallel rank's contiguous share of its global batch."""

    def __init__(self, stream: TokenStream, timeline: Timeline, data_rank: int, num_data_ranks: int) -> None:
        self.stream = stream
        self.timeline = timeline
        self.data_rank = data_rank
        self.num_data_ranks = num_data_ranks

    def __getitem__(self, step: int) -> StepBatch:
        plan = self.timeline.step(step)
        share = plan.global_batch_size // self.num_data_ranks
        first = plan.first_sample + self.data_rank * share
        batch = self.stream.read(range(first, first + share))
        return StepBatch(
            inputs_BT=torch.from_numpy(batch.inputs_BT),
            targets_BT=torch.from_numpy(batch.targets_BT),
            sources_B=torch.from_numpy(batch.sources_B).long(),
        )


class StepDataModule(pl.LightningDataModule):
    """Feeds steps first_step .. timeline.num_steps - 1, in order."""

    def __init__(
        self, stream: TokenStream, timeline: Timeline, first_step: int, num_data_ranks: int, num_workers: int
    ) -> None:
        super().__init__()
        self.stream = stream
        self.timeline = timeline
        self.first_step = first_step
        self.num_data_ranks = num_data_ranks
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """One item per step."""
        assert self.trainer is not None
        own_rank = data_rank(self.trainer.lightning_module.device_mesh)
        return DataLoader(
            StepDataset(self.stream, self.timeline, own_rank, self.num_data_ranks),
            batch_size=None,
            sampler=range(self.first_step, self.timeline.num_steps),
            num_workers=self.num_workers,
            worker_init_fn=ignore_stop_signals,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )
