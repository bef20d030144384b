"""Benchmarks during training, at token counts that the timeline alone decides.

Invariant: an evaluation changes nothing of training: not the weights, the mode, the gradients nor any generator's
state, also not through the Python code of a task. Every rank computes equally many windows; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from nemotron4_infer.likelihood import window_nll
from nemotron4_infer.windows import Window
from nemotron4_train.evaluation import EvaluationConfig, same_random_state
from nemotron4_train.lightning.callbacks import AfterStep, sums_over_ranks
from nemotron4_train.lightning.module import PretrainingModule, StepResult
from nemotron4_train.lightning.strategy import data_rank
from nemotron4_train.reporting.evaluations import describe
from nemotron4_train.reporting.metrics import MetricsFile
from nemotron4_train.reporting.progress import TrainingProgress
from nemotron4_train.schedule import Timeline

if TYPE_CHECKING:
    from nemotron4_eval.suites.in_training import Measured, TrainingTasks


class Evaluator(AfterStep):
    """Measures tasks when due, and after the last step."""

    def __init__(
        self,
        config: EvaluationConfig,
        tasks: TrainingTasks,
        eos_id: int,
        timeline: Timeline,
        metrics: MetricsFile | None,
        progress: TrainingProgress | None,
    ) -> None:
        self.config = config
        self.tasks = tasks
        self.eos_id = eos_id
        self.timeline = timeline
        self.metrics = metrics
        self.progress = progress

    def after_step(self, trainer: pl.Trainer, module: PretrainingModule, result: StepResult) -> None:
        """Evaluate if the step reaches a multiple of evaluation.every_tokens, or is the last."""
        plan = result.plan
        is_last = plan.step + 1 == self.timeline.num_steps
        if not is_last and not self.config.is_due(self.timeline.tokens_before(plan.step), plan.tokens_after):
            return
        with same_random_state():
            measured = self.tasks.measure(lambda texts, windows: self._nll(module, texts, windows))
        if self.metrics is None or self.progress is None:
            return
        rows = [row for name, found in measured.items() for row in _rows(plan.step + 1, plan.tokens_after, name, found)]
        for row in rows:
            self.metrics.append(row)
        logged = {f"evaluation/{row['task']}/{row['metric']}": float(row["value"]) for row in rows}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=plan.step + 1)
        self.progress.note(f"step {plan.step + 1}: evaluation  {describe(rows)}")

    def _nll(
        self, module: PretrainingModule, texts: Sequence[NDArray[np.int32]], windows: Sequence[Window]
    ) -> NDArray[np.float64]:
        """For each text, nats of what its window scores, equal on every rank."""
        assert module.model is not None
        topology = module.job.topology
        nll = window_nll(
            module.model,
            texts,
            windows,
            self.eos_id,
            device=module.device,
            length_multiple=topology.tensor,
            part=(data_rank(module.device_mesh), topology.num_data_ranks),
        )
        return np.array(sums_over_ranks(nll.tolist(), topology.tensor, module.device))


def _rows(step: int, tokens: int, task: str, found: Measured) -> Iterator[dict[str, str]]:
    for metric, (value, stderr) in found.metrics.items():
        yield {
            "step": str(step),
            "tokens": str(tokens),
            "benchmark": found.benchmark,
            "task": task,
            "metric": metric,
            "value": f"{value:.6f}",
            "stderr": "" if stderr is None else f"{stderr:.6f}",
            "chance": f"{found.chance:.6f}" if found.chance is not None and metric.startswith("acc") else "",
            "items": str(found.items),
        }
