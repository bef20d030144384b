"""A sweep: one directory, a lock on it, a row for each job, and what is still to be run.

Invariants: one live launch a sweep (an flock on sweep.lock); a job's directory is named by its number and a digest of
what was composed, so it never holds two jobs; a job whose result.json has an objective and no error is not run again
(one without an objective may have done nothing but say what it would do). A failed job is a row, not the end.
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
    """What has become of a job of a sweep."""

    waiting = "waiting"
    running = "running"
    complete = "complete"
    failed = "failed"
    stopped = "stopped"
    """By a signal."""


@dataclass
class SweepRow:
    """One job of a sweep: what was asked and what came of it."""

    number: int
    """Its place in the sweep."""
    overrides: list[str]
    """The job's own `key=value` overrides."""
    label: str
    """Those of them that the sweep sets, for the terminal."""
    run_dir: str = ""
    """Where the job wrote; empty for one that could not be composed."""
    state: SweepState = SweepState.waiting
    objective: float | None = None
    """What the job returned (for train: final validation bits per byte); None when it failed."""
    error: str | None = None
    """The one-line reason of a failed job."""
    seconds: float | None = None
    """What its last launch took."""


def sweep_name(verb: str, overrides: Sequence[str]) -> str:
    """Name of the directory: the same for the same command, in any order and however its jobs are launched.

    With `resume=never` it is the time, so that the sweep begins anew.
    """
    if "resume=never" in overrides:
        return f"sweep_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return f"sweep_{_digest([verb, *sorted(text for text in overrides if not _HOW_IT_RUNS.match(text))])}"


def job_digest(job_yaml: str) -> str:
    """Identity of a composed job, however it is launched."""
    from yaml import safe_load

    described = safe_load(job_yaml)
    described.pop("launcher", None)
    return _digest(described)


def _digest(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:8]


class Sweep:
    """The state of one sweep, over all the batches that its sweeper asks for."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.rows: list[SweepRow] = []
        self._directory = Path()
        self._lock: ExitStack | None = None

    def open(self, directory: Path) -> None:
        """Make the directory and take its lock; raises ValueError when another launch has it, or it is not ours."""
        check_new_or_ours(directory, "hydra.sweep.dir", ("sweep.lock",))
        directory.mkdir(parents=True, exist_ok=True)
        lock = ExitStack()
        lock.enter_context(exclusive(directory / "sweep.lock", "hydra.sweep.dir", directory))
        self._directory, self._lock = directory, lock

    def close(self) -> None:
        """Write the last table, where there is anything to tell, and give the lock back."""
        if self._lock is None:
            return
        try:
            if self.rows:
                self._summarise(done=True)
        finally:
            self._lock.close()

    def run(self, batch: Sequence[tuple[SweepRow, Any]], max_at_once: int) -> None:
        """Run those jobs of a batch that are not complete; a row that has failed already needs no job.

        Raises SystemExit(75 or 130) when a signal stopped it.
        """
        todo: list[tuple[SweepRow, Any]] = []
        for row, job in batch:
            self.rows.append(row)
            result = read_result(Path(row.run_dir)) if row.state is SweepState.waiting else None
            if row.state is SweepState.failed:
                self._tell(row, f"failed: {row.error}")
            elif result is not None and result.objective is not None and result.error is None:
                row.state, row.objective, row.seconds = SweepState.complete, result.objective, result.seconds
                self._tell(row, f"complete already{_shown(row)}")
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
            print("sweep stopped; run the same command to go on", file=sys.stderr)
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
        return "ended by a signal; the same command goes on"
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
    return f"the job {how}; its output.log has its last lines"


def _shown(row: SweepRow) -> str:
    if row.error:
        return f": {row.error}"
    objective = "" if row.objective is None else f": {row.objective:.6g}"
    return objective if row.seconds is None else f"{objective} in {row.seconds:.1f} s"
