"""A CSV file of metrics that survives restarts: rows after the step that a run resumes from are dropped."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nemotron4_common.staging import write_file

Rows = Sequence[Mapping[str, str]]
"""Rows of a metrics file, as values by column name."""
STEP_COLUMNS = (
    *("step", "tokens", "loss", "lr", "global_batch_size", "phase", "grad_norm", "skipped"),
    *("tokens_per_second", "mfu", "peak_memory_bytes"),
)
_TEXTS = ("phase", "domain", "source", "benchmark", "task", "metric")
_COUNTS = ("step", "tokens", "drawn_tokens", "items", "peak_memory_bytes")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; empty when there is no file. A row that was cut short is left out.

    Raises ValueError with file, line and column for an invalid number, and OSError with the file.
    """
    if not path.is_file():
        return []
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if None not in row.values():
                    _check(row, f"{path}: line {reader.line_num}")
                    rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table of metrics ({error}); restore or remove it") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return rows


def _check(row: Mapping[str | None, Any], where: str) -> None:
    if None in row:
        raise ValueError(f"{where}: {row[None]}: beyond the last column; remove the line")
    for name, value in {"step": None, **row}.items():
        try:
            if name in _COUNTS and (value != "" or name == "step"):
                is_right = int(value) >= 0
            else:
                is_right = name in _TEXTS or value == "" or float(value) is not None
        except (ValueError, TypeError):
            is_right = False
        if not is_right:
            raise ValueError(f"{where}: {name} ({value}): not a valid number; remove the line")


def accepted(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Rows of the steps that were not skipped: those whose loss is meaningful."""
    return [row for row in rows if row.get("skipped") != "1"]


class MetricsFile:
    """Appends rows, each written and flushed by a thread, so that a slow file system holds up no step."""

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
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._error: Exception | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Have one row written. Raises OSError, which names the file, when an earlier one could not be."""
        self._raise_error()
        self._thread.submit(self._attempt, self._write, row)

    def flush(self) -> None:
        """Wait until all rows are in the file. Raises OSError, which names the file, when one could not be written."""
        self._thread.submit(self._attempt, self._file.flush).result()
        self._raise_error()

    def close(self) -> None:
        """Flush, and close the file."""
        self._thread.submit(self._attempt, self._file.close)
        self._thread.shutdown()
        self._raise_error()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow(row)
        self._file.flush()

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """In the thread: act, and keep the first error for the thread that calls next."""
        try:
            action(*arguments)
        except Exception as error:
            named = OSError(error.errno, error.strerror, self._file.name) if isinstance(error, OSError) else error
            self._error = self._error or named

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
