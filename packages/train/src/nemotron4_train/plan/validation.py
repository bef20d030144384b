"""How far to trust the planner: every published step beside its prediction, fitted rows and rows held out.

Beside the error of a prediction is that of a constant: the mean of the same run's published seconds, which knows what
it should predict. Invariant: the page and the terminal show the same rows, to the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console

from nemotron4_train.estimates.published import PublishedStep, published_steps
from nemotron4_train.estimates.step_time import mfu
from nemotron4_train.machine import load_machine
from nemotron4_train.plan.cells import Cells

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
        console.print(_cells(title, group).rich())
        console.print(summary(title, group), soft_wrap=True)


def as_markdown() -> str:
    """The same, for the page."""
    parts = ((_cells(title, group).markdown(), f"{summary(title, group)}.") for title, group in groups().items())
    return "\n\n".join(part[0].upper() + part[1:] for both in parts for part in both)


def summary_cells() -> Cells:
    """The errors of each run."""
    header = ("run", "constants", "GPUs", "error, root mean square", "at most", "a constant's", "at most")
    cells = []
    for run, of_run in groupby(rows(), key=lambda row: row.step.run):
        group = list(of_run)
        sizes = [row.step.layout.num_devices for row in group]
        errors = [row.error for row in group], [row.constant_error for row in group]
        shares = (f"{of(each):.1%}" for each in errors for of in (_rms, _largest))
        kind = "fitted" if group[0].step.is_fitted else "held out"
        cells.append([run, kind, f"{min(sizes):,} to {max(sizes):,}", *shares])
    return Cells(title="Published steps", header=header, rows=cells)


def _cells(title: str, group: Sequence[Row]) -> Cells:
    return Cells(title=f"Published steps, {title}", header=_COLUMNS, rows=[row.cells for row in group])


def _mean(steps: Sequence[PublishedStep]) -> float:
    return sum(step.seconds for step in steps) / len(steps)


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def _largest(errors: Sequence[float]) -> float:
    return max(abs(error) for error in errors)
