"""result.json: how a job of a sweep ended. Invariant: it has no error only when the job has ended well."""

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
    """What it returned."""
    error: str | None = None
    """Its one-line reason, when it failed."""
    seconds: float | None = None
    """What the launch that ended it took; None where nobody lived to say so."""

    def __post_init__(self) -> None:
        """A loss that is not a number is a failure: neither tables nor Optuna can rank it."""
        if self.objective is not None and not math.isfinite(self.objective):
            self.objective, self.error = None, self.error or f"the objective is {self.objective}"


def write_result(directory: Path, result: SweepResult) -> None:
    """Write result.json atomically."""
    write_file(directory / "result.json", (json.dumps(asdict(result)) + "\n").encode())


def read_result(directory: Path) -> SweepResult | None:
    """The result of a job that has ended, else None; a file that is not one is a job that runs again."""
    try:
        return SweepResult(**json.loads((directory / "result.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
