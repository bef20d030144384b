"""How far to trust the planner: every published step beside its prediction, fitted rows and rows held out.

Beside the error of a prediction is that of a constant: the mean of the same run's published seconds, which knows what
it should predict. Invariant: the page and the terminal show the same rows, to the same digits.

`python -m nemotron4_train.plan.validation docs/planner.md` writes the page's table, between its two marks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nemotron4_common.staging import write_file
from nemotron4_train.estimates.published import PublishedStep, published_steps
from nemotron4_train.estimates.step_time import mfu
from nemotron4_train.machine import load_machine

BEGIN, END = "<!-- published steps: begin -->", "<!-- published steps: end -->"
_COLUMNS = ("run", "GPUs", "batch", "published s", "predicted s", "error", "a constant's", "MFU published", "predicted")


@dataclass(frozen=True)
class Row:
    """A published step, and two predictions of it."""

    step: PublishedStep
    predicted_seconds: float
    constant_seconds: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was published."""
        return self.predicted_seconds / self.step.seconds - 1

    @property
    def constant_error(self) -> float:
        """Of the constant."""
        return self.constant_seconds / self.step.seconds - 1

    @property
    def cells(self) -> list[str]:
        """As they are shown."""
        step, layout = self.step, self.step.layout
        machine = load_machine(step.machine)
        shares = [mfu(step.model, layout, machine, seconds) for seconds in (step.seconds, self.predicted_seconds)]
        return [
            step.run,
            f"{layout.num_devices:,}",
            f"{layout.global_batch_size:,}",
            *(f"{seconds:#.3g}" for seconds in (step.seconds, self.predicted_seconds)),
            *(f"{error:+.1%}" for error in (self.error, self.constant_error)),
            *(f"{share:.1%}" for share in shares),
        ]


def rows() -> list[Row]:
    """One for each published step."""
    steps = published_steps()
    same_run = ([other for other in steps if other.run == step.run] for step in steps)
    return [Row(step, step.predicted_seconds(), _mean(run)) for step, run in zip(steps, same_run, strict=True)]


def groups() -> dict[str, list[Row]]:
    """The rows by whether constants are fitted on them, by title."""
    found = rows()
    return {
        "fitted": [row for row in found if row.step.is_fitted],
        "held out": [row for row in found if not row.step.is_fitted],
    }


def summary(title: str, group: Sequence[Row]) -> str:
    """The errors of a group in one line."""
    ours, constants = [row.error for row in group], [row.constant_error for row in group]
    return (
        f"{title}, {len(group)} rows: error {_rms(ours):.1%} root mean square, {_largest(ours):.1%} at most;"
        f" a constant for each run: {_rms(constants):.1%}, {_largest(constants):.1%}"
    )


def show_validation(console: Console) -> None:
    """Print every row, and the errors of both groups."""
    for title, group in groups().items():
        table = Table(*_COLUMNS, title=f"Published steps, {title}")
        for row in group:
            table.add_row(*row.cells)
        console.print(table)
        console.print(summary(title, group), soft_wrap=True)


def as_markdown() -> str:
    """The same, for the page."""
    parts = []
    for title, group in groups().items():
        lines = [" | ".join(row.cells) for row in group]
        table = [" | ".join(_COLUMNS), " | ".join("---" for _ in _COLUMNS), *lines]
        parts += ["\n".join(f"| {line} |" for line in table), f"{summary(title, group)}."]
    return "\n\n".join(part[0].upper() + part[1:] for part in parts)


def with_table(page: str) -> str:
    """The page with the present table between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{as_markdown()}\n\n{END}{after}"


def _mean(steps: Sequence[PublishedStep]) -> float:
    return sum(step.seconds for step in steps) / len(steps)


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def _largest(errors: Sequence[float]) -> float:
    return max(abs(error) for error in errors)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_file(path, with_table(path.read_text(encoding="utf-8")).encode())
