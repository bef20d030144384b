"""result.json: how a job of a sweep ended. Invariant: it has no error only if the job succeeded."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from nemotron4_common.staging import write_file


@dataclass
class SweepResult:
    """How a job ended."""

    objective: float | None = None
    """The number it returned."""
    error: str | None = None
    """The one-line reason, if it failed."""
    seconds: float | None = None
    """Duration of the launch that ended it; None if the sweep was killed before it could record that."""

    def __post_init__(self) -> None:
        """Make a NaN or infinite objective a failure: neither tables nor Optuna can rank it."""
        if self.objective is not None and not math.isfinite(self.objective):
            self.objective, self.error = None, self.error or f"the objective is {self.objective}"


def write_result(directory: Path, result: SweepResult) -> None:
    """Write result.json atomically."""
    write_file(directory / "result.json", (json.dumps(asdict(result)) + "\n").encode())


def read_result(directory: Path) -> SweepResult | None:
    """The result of a job that has ended, otherwise None; also None for an unreadable file, so that the job reruns."""
    try:
        return SweepResult(**json.loads((directory / "result.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
