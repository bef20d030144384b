"""A sweep: one directory, a lock on it, a row for each job, and the jobs still to be run.

Invariants: one live launch per sweep (an flock on sweep.lock); a job's directory is named by its number and a digest
of the composed job, so it never contains two jobs; a job whose result.json has an objective and no error is not run
again (one without an objective may only have printed what it would do). A failed job is a row; the sweep continues.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from nemotron4_common.locks import exclusive
from nemotron4_common.ownership import check_new_or_ours
from nemotron4_common.signals import stop_status
from nemotron4_config.command import Command, load_attribute
from nemotron4_config.sweep_processes import SweepProcesses
from nemotron4_config.sweep_result import SweepResult, read_result, write_result

_HOW_IT_RUNS = re.compile(r"-m$|--multirun$|[+~]*(hydra[./])?launcher[.=]")


class SweepState(StrEnum):
    """State of a job of a sweep."""

    waiting = "waiting"
    running = "running"
    complete = "complete"
    failed = "failed"
    stopped = "stopped"
    """By a signal."""


@dataclass
class SweepRow:
    """One job of a sweep: its overrides and its outcome."""

    number: int
    """Its place in the sweep."""
    overrides: list[str]
    """The job's own `key=value` overrides."""
    label: str
    """Those of the overrides that vary in the sweep, for the terminal."""
    run_dir: str = ""
    """Where the job wrote; empty for one that could not be composed."""
    state: SweepState = SweepState.waiting
    objective: float | None = None
    """The number the job returned (for train: final validation bits per byte); None if it failed."""
    error: str | None = None
    """The one-line reason of a failed job."""
    seconds: float | None = None
    """Duration of its last launch."""


def sweep_name(verb: str, overrides: Sequence[str]) -> str:
    """Name of the directory: the same for the same overrides, in any order and however its jobs are launched.

    With `resume=never` it is the time, so that the sweep starts from scratch.
    """
    if "resume=never" in overrides:
        return f"sweep_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return f"sweep_{_digest([verb, *sorted(text for text in overrides if not _HOW_IT_RUNS.match(text))])}"


def job_digest(job_yaml: str) -> str:
    """Digest of a composed job, independent of how it is launched."""
    from yaml import safe_load

    described = safe_load(job_yaml)
    described.pop("launcher", None)
    return _digest(described)


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:8]


class Sweep:
    """The state of one sweep, over all batches that its sweeper launches."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.rows: list[SweepRow] = []
        self._directory = Path()
        self._lock: ExitStack | None = None

    def open(self, directory: Path) -> None:
        """Make the directory and lock it; raises ValueError if another launch has the lock or no sweep made it."""
        check_new_or_ours(directory, "hydra.sweep.dir", ("sweep.lock",))
        directory.mkdir(parents=True, exist_ok=True)
        lock = ExitStack()
        lock.enter_context(exclusive(directory / "sweep.lock", "hydra.sweep.dir", directory))
        self._directory, self._lock = directory, lock

    def close(self) -> None:
        """Write the final table, if there are rows, and release the lock."""
        if self._lock is None:
            return
        try:
            if self.rows:
                self._summarise(done=True)
        finally:
            self._lock.close()

    def run(self, batch: Sequence[tuple[SweepRow, Any]], max_at_once: int) -> None:
        """Run the jobs of a batch that are not complete; a row that has already failed needs no job.

        Raises SystemExit(75 or 130) if a signal stopped the sweep.
        """
        todo: list[tuple[SweepRow, Any]] = []
        for row, job in batch:
            self.rows.append(row)
            result = read_result(Path(row.run_dir)) if row.state is SweepState.waiting else None
            if row.state is SweepState.failed:
                self._tell(row, f"failed: {row.error}")
            elif result is not None and result.objective is not None and result.error is None:
                row.state, row.objective, row.seconds = SweepState.complete, result.objective, result.seconds
                self._tell(row, f"already complete{_shown(row)}")
            else:
                (Path(row.run_dir) / "result.json").unlink(missing_ok=True)
                todo.append((row, job))
        self._summarise()
        if todo and not self._run_elsewhere(todo):
            self._run_processes([row for row, _ in todo], max_at_once)

    def _run_elsewhere(self, todo: Sequence[tuple[SweepRow, Any]]) -> bool:
        if self.command.run_jobs is None:
            return False
        begin = time.monotonic()

        def report(index: int, objective: float | None, error: str | None) -> None:
            result = SweepResult(objective, error, time.monotonic() - begin)
            self._end(todo[index][0], result, SweepState.failed if result.error else SweepState.complete)

        run_jobs: Callable[..., bool] = load_attribute(self.command.run_jobs)
        return run_jobs([(Path(row.run_dir), job) for row, job in todo], report)

    def _run_processes(self, rows: Sequence[SweepRow], max_at_once: int) -> None:
        begin: dict[int, float] = {}

        def started(index: int) -> None:
            begin[index] = time.monotonic()
            rows[index].state = SweepState.running
            self._tell(rows[index], f"started in {rows[index].run_dir}")

        def ended(index: int, status: int) -> None:
            row = rows[index]
            result = read_result(Path(row.run_dir))
            stopped = result is None and (processes.received is not None or status == 75 or status > 128)
            result = result or SweepResult(error=_reason(status, stopped))
            result.seconds = time.monotonic() - begin[index]
            done = SweepState.failed if result.error else SweepState.complete
            self._end(row, result, SweepState.stopped if stopped else done)

        processes = SweepProcesses(self.command, max_at_once, started, ended)
        processes.run([Path(row.run_dir) for row in rows])
        if processes.received is not None:
            print("sweep stopped; run the same command to resume", file=sys.stderr)
            raise SystemExit(stop_status(processes.received))

    def _end(self, row: SweepRow, result: SweepResult, state: SweepState) -> None:
        row.state, row.objective, row.error, row.seconds = state, result.objective, result.error, result.seconds
        write_result(Path(row.run_dir), result)
        self._tell(row, f"{state}{_shown(row)}")
        self._summarise()

    def _tell(self, row: SweepRow, what: str) -> None:
        print(f"job {row.number} ({row.label}) {what}", file=sys.stderr, flush=True)

    def _summarise(self, done: bool = False) -> None:
        if self.command.summarise_sweep:
            load_attribute(self.command.summarise_sweep)(self._directory, self.rows, done)


def _reason(status: int, stopped: bool) -> str:
    if stopped:
        return "ended by a signal; the same command resumes it"
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
    return f"the job {how}; its output.log has its last lines"


def _shown(row: SweepRow) -> str:
    if row.error:
        return f": {row.error}"
    objective = "" if row.objective is None else f": {row.objective:.6g}"
    return objective if row.seconds is None else f"{objective} in {row.seconds:.1f} s"
