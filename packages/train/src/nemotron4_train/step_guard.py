"""Which optimiser steps are skipped: those with a loss or gradient norm that is not finite, or far above recent ones.

Far is `trainer.spike_sigma` standard deviations above the mean of the last `trainer.spike_window_steps` accepted steps
of the same phase: a phase may change batch size and blend, and both move the loss and the norm for good reasons.

Invariant: a verdict is a function of the values so far, so ranks that see the same values agree, and a run resumed
with its checkpoint's guard state decides as an uninterrupted one.
Source: skipping outliers of a rolling window, as OLMo-core's SkipStepOptimizer does; skipping data at a spike,
PaLM (arXiv 2204.02311 section 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nemotron4_train.job import TrainerConfig

_LOSS, _NORM = "loss", "gradient norm"
_MIN_SIGMA = {_LOSS: 0.05, _NORM: 1.0}
"""Smallest sigma, as a fraction of the mean. Norms have long tails, and clipping tames them: a healthy run with small
batches had one norm 13 sigma above its mean, and one of 5 times its mean."""
_NAMES_SHOWN = 5


@dataclass
class GuardState:
    """What the guard remembers; stored as JSON in a checkpoint's state.json."""

    phase: str = ""
    losses: list[float] = field(default_factory=list)
    """Of the last accepted steps of the phase, in nats per token."""
    grad_norms: list[float] = field(default_factory=list)
    """Of the same steps, before clipping."""
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0


class StepGuard:
    """Decides, step by step, which to skip."""

    def __init__(self, config: TrainerConfig, state: GuardState) -> None:
        self.config = config
        self.state = state

    def refuse(self, phase: str, loss: float, grad_norm: float) -> str | None:
        """Why the next step must be skipped, or None; records the step either way."""
        state = self.state
        if phase != state.phase:
            state.phase, state.losses, state.grad_norms = phase, [], []
        reason = self._objection(_LOSS, loss, state.losses) or self._objection(_NORM, grad_norm, state.grad_norms)
        if reason is not None:
            state.num_skipped += 1
            state.num_skipped_in_a_row += 1
            return reason
        state.num_skipped_in_a_row = 0
        for window, value in ((state.losses, loss), (state.grad_norms, grad_norm)):
            window.append(value)
            del window[: -self.config.spike_window_steps]
        return None

    @property
    def exhausted(self) -> bool:
        """Whether the most steps in a row that may be skipped have been."""
        return self.state.num_skipped_in_a_row >= self.config.max_skipped_steps_in_a_row

    def _objection(self, name: str, value: float, window: list[float]) -> str | None:
        if not math.isfinite(value):
            return f"{name} {value}"
        if self.config.spike_sigma is None or len(window) < self.config.spike_window_steps:
            return None
        mean, sigma = _mean_and_sigma(window)
        sigma = max(sigma, _MIN_SIGMA[name] * mean)
        if value <= mean + self.config.spike_sigma * sigma:
            return None
        return f"{name} {value:.4g} is more than {self.config.spike_sigma:g} sigma of {sigma:.2g} above {mean:.4g}"

    def diagnosis(self, step: int, reason: str, losses: Mapping[str, float], grad_norms: Mapping[str, float]) -> str:
        """The message when the run stops at `step` (from 1): what was seen, and what to try.

        `losses` are the batch's, by source; `grad_norms` are by parameter.
        """
        state = self.state
        window = "no step of this phase was accepted"
        if state.losses:
            figures = [(name, *_mean_and_sigma(of)) for name, of in ((_LOSS, state.losses), (_NORM, state.grad_norms))]
            window = f"mean and sigma of the last {len(state.losses)} accepted steps: " + ", ".join(
                f"{name} {mean:.4g} and {sigma:.2g}" for name, mean, sigma in figures
            )
        return "\n".join(
            [
                f"step {step} ({state.phase}): {reason}; {state.num_skipped_in_a_row} steps in a row were skipped, as"
                " many as trainer.max_skipped_steps_in_a_row allows",
                window,
                "loss by source: " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items()),
                _describe_gradients(grad_norms),
                "the weights are those of the last accepted step, and the checkpoints are intact; run the same command"
                " to retry from the newest (a hardware fault does not repeat itself), with a larger"
                " trainer.max_skipped_steps_in_a_row to skip more data, or start another run from a checkpoint"
                " (resume=PATH) with a lower optimizer.lr, or optimizer.muon_lr with Muon",
            ]
        )


def _mean_and_sigma(values: list[float]) -> tuple[float, float]:
    """From exactly rounded sums: the same on every machine."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _describe_gradients(norms: Mapping[str, float]) -> str:
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if broken:
        more = f" and {len(broken) - _NAMES_SHOWN} more" if len(broken) > _NAMES_SHOWN else ""
        return f"gradients that are not finite: {', '.join(broken[:_NAMES_SHOWN])}{more} (of {len(norms)})"
    total = math.hypot(*norms.values()) or 1.0
    largest = sorted(norms, key=lambda name: norms[name], reverse=True)[:_NAMES_SHOWN]
    parts = ", ".join(f"{name} {norms[name] / total:.3f}" for name in largest)
    return f"largest gradients, as fractions of the norm: {parts}"
