"""A CSV file of metrics that survives restarts: rows after the step a run resumes from are dropped, then it grows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron4_data.staging import write_file

Rows = Sequence[Mapping[str, str]]
"""Lines of a metrics file by their columns' names."""
STEP_COLUMNS = (
    *("step", "tokens", "loss", "lr", "global_batch_size", "phase", "grad_norm", "skipped"),
    *("tokens_per_second", "mfu"),
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; empty when there is none."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def accepted(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Rows of the steps that were not skipped: those whose loss means something."""
    return [row for row in rows if row.get("skipped") != "1"]


class MetricsFile:
    """Appends rows; each is flushed as it is written."""

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int) -> None:
        self.columns = list(columns)
        kept = [row for row in read_rows(path) if int(row["step"]) <= resume_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_file(path, text.getvalue().encode())
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._writer = csv.DictWriter(self._file, self.columns, lineterminator="\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row. OSError names the file."""
        try:
            self._writer.writerow(row)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
