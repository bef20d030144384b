"""The memory of one rank, predicted from the model's shape and the layout, in bytes by kind."""

from __future__ import annotations

from dataclasses import dataclass

from nemotron4_model.config import ModelConfig
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.job import OptimizerKind


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank at the peak of a step, by kind; all but `host` on its device."""

    parameters: int
    """Its shard, in fp32."""
    gradients: int
    optimizer: int
    activations: int
    """What the blocks keep for backward, and what one block needs while it is computed."""
    logits: int
    """The loss's chunk of logits, and what the head makes of it."""
    gathered: int
    """Weights that FSDP has gathered at the peak, in the format of the products."""
    allowance: int
    """Stated, not computed: context, NCCL's buffers, fragmentation of the allocator."""
    host: int
    """Of host memory: the copy that a checkpoint is written from."""

    @property
    def allocated(self) -> int:
        """What is allocated at the peak: all but the allowance."""
        kinds = (self.parameters, self.gradients, self.optimizer, self.activations, self.logits, self.gathered)
        return sum(kinds)

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.allocated + self.allowance

    @property
    def resident(self) -> int:
        """What stays allocated between steps."""
        return self.parameters + self.gradients + self.optimizer


def memory(model: ModelConfig, layout: Layout, optimizer: OptimizerKind = OptimizerKind.adamw) -> Memory:
    """Predict the memory of a rank."""
    raise NotImplementedError
