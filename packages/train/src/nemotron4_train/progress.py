"""The progress line of training: phase, tokens, loss, tokens/s and time left; a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class TrainingProgress:
    """Counts tokens against the timeline; speed is a moving average over recent steps."""

    def __init__(self, num_tokens: int, tokens_done: int, num_steps: int, interval_steps: int) -> None:
        self.num_tokens = num_tokens
        self.num_steps = num_steps
        self.interval_steps = interval_steps
        self._tokens = tokens_done
        self._time = time.perf_counter()
        self._speed: float | None = None
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.fields[phase]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=num_tokens, completed=tokens_done, phase="start", figures="")
        self._bar.start()

    def advance(self, tokens: int, phase: str, loss: float, step: int) -> float:
        """After a step: show it; returns this step's tokens per second."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / (now - self._time)
        self._speed = speed if self._speed is None else 0.95 * self._speed + 0.05 * speed
        self._tokens, self._time = tokens, now
        left = timedelta(seconds=round((self.num_tokens - tokens) / self._speed))
        figures = (
            f"step {step}/{self.num_steps}  {tokens / 1e6:.2f}/{self.num_tokens / 1e6:.2f}M tokens"
            f"  loss {loss:.3f}  {self._speed:,.0f} tokens/s  {left} left"
        )
        self._bar.update(self._task, completed=tokens, phase=phase, figures=figures)
        if not self._console.is_terminal and step % self.interval_steps == 0:
            print(f"{phase}: {figures}", file=sys.stderr, flush=True)
        return speed

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self._bar.console.print(text, highlight=False)
        self._time = time.perf_counter()  # what took place between steps is not the steps' speed

    def close(self) -> None:
        """Take the bar down."""
        self._bar.stop()
