"""Python's garbage, collected at the same step on every rank.

By itself Python collects whenever a process has made enough objects, and at times goes through all of them, half a
million (0.2 s on one core): on one rank after the other, while the rest wait in a collective. What exists after the
first step stays to the end, so it is left out. Invariant: a step leaves no tensors in reference cycles (a test counts
them), so memory does not grow between collections; and however training ends, collection is automatic again.
"""

from __future__ import annotations

import gc

import lightning.pytorch as pl

from nemotron4_train.lightning.callbacks import AfterStep
from nemotron4_train.lightning.module import PretrainingModule, StepResult

_INTERVAL_STEPS = 100


class GarbageCollection(AfterStep):
    """Collects after the first step and at an interval; `close` restores what was before."""

    def __init__(self) -> None:
        self._steps = 0
        self._was_enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop automatic collection."""
        self._was_enabled = gc.isenabled()
        gc.disable()

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Collect when due."""
        if self._steps % _INTERVAL_STEPS == 0:
            gc.collect()
        if self._steps == 0:
            gc.freeze()
        self._steps += 1

    def close(self) -> None:
        """Collect automatically again, if that was so before."""
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()
