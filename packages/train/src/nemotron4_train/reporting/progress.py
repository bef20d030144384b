"""The progress line of training: phase, tokens, loss, tokens/s, MFU and time left.

A bar on a terminal, lines elsewhere. Time spent between steps (validation, a report) does not count in their speed.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import NamedTuple

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nemotron4_common.terminal import plain_console
from nemotron4_train.reporting.mfu import NAME, Utilisation
from nemotron4_train.schedule import StepPlan, Timeline


class Speed(NamedTuple):
    """The speed of a step, over all devices."""

    tokens_per_second: float
    mfu: float | None
    """A fraction; None if the devices' peak is not known."""


class TrainingProgress:
    """Counts tokens against the timeline; speed is a moving average over recent steps."""

    def __init__(self, timeline: Timeline, first_step: int, interval_steps: int, utilisation: Utilisation) -> None:
        self.num_tokens = timeline.num_tokens
        self.num_steps = timeline.num_steps
        self.interval_steps = interval_steps
        self.utilisation = utilisation
        self._tokens = tokens_done = timeline.tokens_before(first_step)
        self._time = time.perf_counter()
        self._speed: float | None = None
        self._console = plain_console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.fields[phase]}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=self.num_tokens, completed=tokens_done, phase="start", figures=""
        )
        self._bar.start()

    def advance(self, plan: StepPlan, loss: float) -> Speed:
        """Show a step that is done; returns its speed."""
        tokens, step, now = plan.tokens_after, plan.step + 1, time.perf_counter()
        speed = (tokens - self._tokens) / (now - self._time)
        self._speed = speed if self._speed is None else 0.95 * self._speed + 0.05 * speed
        self._tokens, self._time = tokens, now
        left = timedelta(seconds=round((self.num_tokens - tokens) / self._speed))
        figures = (
            f"step {step}/{self.num_steps}  {tokens / 1e6:.2f}/{self.num_tokens / 1e6:.2f}M tokens"
            f"  loss {loss:.3f}  {self._speed:,.0f} tokens/s{self._shown_mfu(plan)}  {left} left"
        )
        self._bar.update(self._task, completed=tokens, phase=plan.phase, figures=figures)
        if not self._console.is_terminal and step % self.interval_steps == 0:
            print(f"{plan.phase}: {figures}", file=sys.stderr, flush=True)
        return Speed(speed, self.utilisation.mfu(speed, plan.sequence_length))

    def _shown_mfu(self, plan: StepPlan) -> str:
        assert self._speed is not None
        mfu = self.utilisation.mfu(self._speed, plan.sequence_length)
        return "" if mfu is None else f"  {NAME} {mfu:.1%}"

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self._bar.console.print(text, highlight=False, soft_wrap=True)
        self.resume_clock()

    def resume_clock(self) -> None:
        """Count the next step's time from now."""
        self._time = time.perf_counter()

    def close(self) -> None:
        """Stop the bar."""
        self._bar.stop()
