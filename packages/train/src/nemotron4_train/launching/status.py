"""The state of runs, from their records, their metrics and the queue; and stopping them.

Reads only files, and squeue if a run is on Slurm, so it works at any time, from any machine that sees the runs.
Invariant: a damaged file is reported in its run's row, and hides nothing else.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TypeVar

from nemotron4_train.job import TrainJob
from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.attempt import read_attempts, requeues
from nemotron4_train.launching.slurm.submit import jobs_in_queue
from nemotron4_train.reporting.metrics import accepted, read_rows
from nemotron4_train.run_directory import RunRecord, RunState, holder, read_record, write_record

_T = TypeVar("_T")
_RECENT_STEPS = 20
COLUMNS = ("run", "state", "phase", "step", "tokens", "loss", "tokens/s", "left", "queue", "requeues")


@dataclass(kw_only=True)
class StatusJob:
    """`nemotron4 status [run=DIR] [root=runs]`."""

    run: str | None = None
    """Directory of one run; null shows all runs below `root`."""
    root: str = "runs"
    """Directory of all runs."""


@dataclass(kw_only=True)
class CancelJob:
    """`nemotron4 cancel run=DIR`."""

    run: str
    """The run's directory."""


def run_directories(job: StatusJob) -> list[Path]:
    """The runs to show: those with a record, oldest first. Raises ValueError when there is none."""
    if job.run is not None:
        _check_is_run(job.run)
        return [Path(job.run).resolve()]
    records = list(Path(job.root).rglob("run.json"))  # rglob does not follow the link `latest`
    if not records:
        raise ValueError(f"root ({job.root}): contains no runs; give the run.root that they were started with")
    return [path.parent for path in sorted(records, key=lambda path: path.lstat().st_mtime)]


def _check_is_run(run: str) -> None:
    if not Path(run, "run.json").exists():
        raise ValueError(f"run ({run}): has no run.json; name a run directory such as runs/demo/latest")


class _Damage:
    """Reads a run's files, and keeps a one-line error for each that cannot be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []

    def read(self, reader: Callable[[Path], _T], otherwise: _T) -> _T:
        """What `reader` returns for the directory, or `otherwise` when it fails."""
        try:
            return reader(self.directory)
        except (ValueError, OSError) as error:
            self.note(error)
            return otherwise

    def note(self, error: Exception) -> None:
        """Keep an error, with its file named relative to the run's directory."""
        named = isinstance(error, OSError) and error.filename
        text = f"{error.filename}: {error.strerror}" if named else " ".join(str(error).split())  # type: ignore[attr-defined]
        self.lines.append(text.replace(f"{self.directory}/", ""))


def status_row(directory: Path, job: TrainJob | Exception, queue: Sequence[client.QueuedJob] | None) -> tuple[str, ...]:
    """A run's values for COLUMNS. `job` is the error if job.yaml cannot be read; a `queue` of None is unknown."""
    damage = _Damage(directory)
    nothing: list[dict[str, str]] = []
    none: list[client.QueuedJob] = []
    record = damage.read(_record, None)
    rows = damage.read(lambda run: read_rows(run / "metrics.csv"), nothing)
    mine = damage.read(lambda run: jobs_in_queue(run, queue or []), none)
    again = damage.read(lambda run: str(requeues(read_attempts(run))), "")
    state = damage.read(lambda run: _state(record, run, mine, queue is None) if record else "", "")
    last = rows[-1] if rows else {}
    good = accepted(rows)
    step = int(last.get("step", record.step if record else 0))
    speeds = [float(row["tokens_per_second"]) for row in rows[-_RECENT_STEPS:] if row.get("tokens_per_second")]
    speeds = [speed for speed in speeds if 0 < speed < math.inf]
    tokens, left = "", ""
    if isinstance(job, Exception):
        damage.note(job)
    else:
        timeline = job.timeline()
        done = timeline.tokens_before(min(step, timeline.num_steps))
        tokens = f"{done:,} / {timeline.num_tokens:,}"
        if speeds and record is not None and record.state is RunState.running:
            left = str(timedelta(seconds=round((timeline.num_tokens - done) / median(speeds))))
    return (
        str(_short(directory)),
        "; ".join([state, *damage.lines] if state else damage.lines),
        last.get("phase", ""),
        f"{step:,} / {record.num_steps:,}" if record else f"{step:,}",
        tokens,
        f"{float(good[-1]['loss']):.3f}" if good and good[-1].get("loss") else "",
        f"{median(speeds):,.0f}" if speeds else "",
        left,
        ", ".join(f"{found.job_id} {found.state.lower()}" for found in mine),
        again,
    )


def _record(directory: Path) -> RunRecord:
    record = read_record(directory)
    if record is None:
        raise ValueError("run.json: not a file")
    return record


def _state(record: RunRecord, directory: Path, queued: Sequence[client.QueuedJob], is_unknown: bool) -> str:
    """The recorded state, unless the processes or jobs that it implies are known to be gone."""
    if record.error:
        return f"{record.state}: {record.error}"
    if is_unknown and _is_on_slurm(directory):
        return record.state
    if record.state is RunState.running and not queued and holder(directory) is None:
        return "lost (its processes are gone; run the same command to resume)"
    if record.state is RunState.queued and not queued and _is_on_slurm(directory) and client.is_available():
        return "queued, but not in the queue"
    return record.state


def _is_on_slurm(directory: Path) -> bool:
    return (directory / "slurm").is_dir()


def _short(directory: Path) -> Path:
    """Relative to the working directory, if it is below that."""
    here = Path.cwd()
    full = directory.resolve()
    return full.relative_to(here) if full.is_relative_to(here) else full


def show_status(directories: Sequence[Path], jobs: Sequence[TrainJob | Exception]) -> None:
    """Print the table; `jobs` has the error of each run whose job.yaml cannot be read."""
    from rich.table import Table

    from nemotron4_common.terminal import plain_console

    queue = _queue() if any(map(_is_on_slurm, directories)) else []
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    table = Table(*COLUMNS)
    for directory, job in zip(directories, jobs, strict=True):
        table.add_row(*status_row(directory, job, queue))
    console.print(table)


def _queue() -> list[client.QueuedJob] | None:
    """The queue; None, with a printed line, when Slurm is installed but does not answer."""
    if not client.is_available():
        return []
    try:
        return client.queue()
    except OSError as error:
        print(f"nemotron4: the queue is unknown ({error})", file=sys.stderr)
        return None


def cancel(job: CancelJob) -> None:
    """Stop a run's jobs, or its processes on this machine; they save first. Raises ValueError when there are none."""
    directory = Path(job.run).resolve()
    _check_is_run(job.run)
    queued = jobs_in_queue(directory, client.queue()) if _is_on_slurm(directory) and client.is_available() else []
    if queued:
        client.cancel([found.job_id for found in queued])
        print(f"cancelled: {', '.join(found.job_id for found in queued)}", file=sys.stderr)
        if all(found.state == "PENDING" for found in queued) and (record := read_record(directory)):
            record.state = RunState.stopped
            write_record(directory, record)
        return
    held = holder(directory)
    if held is None:
        raise ValueError(f"run ({job.run}): it has no running process, and no job in the queue")
    host, pid = held
    if host != socket.gethostname():
        raise ValueError(f"run ({job.run}): runs on {host} as process {pid}; cancel it there")
    os.kill(pid, signal.SIGTERM)
    print(f"told process {pid} to save and exit", file=sys.stderr)
