"""How runs stand, and ending them: what their records and metrics say, beside what the queue says.

Reads files only, and squeue where there is Slurm, so it may be asked at any time, from anywhere that sees the runs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

from nemotron4_train.job import TrainJob
from nemotron4_train.metrics import accepted, read_rows
from nemotron4_train.run_directory import RunRecord, holder, read_record, write_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.slurm import client
from nemotron4_train.slurm.attempt import read_attempts, requeues
from nemotron4_train.slurm.submit import jobs_in_queue

_RECENT_STEPS = 20
COLUMNS = ("run", "state", "phase", "step", "tokens", "loss", "tokens/s", "left", "queue", "requeues")


@dataclass(kw_only=True)
class StatusJob:
    """`nemotron4 status [run=DIR] [root=runs]`."""

    run: str | None = None
    """One run's directory; null shows all below `root`."""
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
        _existing_record(job.run)
        return [Path(job.run).resolve()]
    records = [path for path in Path(job.root).rglob("run.json") if "latest" not in path.parts]
    if not records:
        raise ValueError(f"root ({job.root}): holds no runs; name the directory that they were started in")
    return [path.parent for path in sorted(records, key=lambda path: path.stat().st_mtime)]


def _existing_record(run: str) -> RunRecord:
    record = read_record(Path(run))
    if record is None:
        raise ValueError(f"run ({run}): has no run.json; name a run directory such as runs/demo/latest")
    return record


def status_row(directory: Path, job: TrainJob | None, queue: Sequence[client.QueuedJob] | None) -> tuple[str, ...]:
    """A run as COLUMNS say; `job` is None where its job.yaml cannot be read."""
    record = read_record(directory)
    assert record is not None
    rows = read_rows(directory / "metrics.csv")
    last = rows[-1] if rows else {}
    good = accepted(rows)
    step = int(last.get("step", record.step))
    speeds = [float(row["tokens_per_second"]) for row in rows[-_RECENT_STEPS:] if row.get("tokens_per_second")]
    tokens, left = "", ""
    if job is not None:
        timeline = Timeline(job.schedule, job.trainer.max_steps)
        done = timeline.tokens_before(min(step, timeline.num_steps))
        tokens = f"{done:,} / {timeline.num_tokens:,}"
        if speeds and record.state == "running":
            left = str(timedelta(seconds=round((timeline.num_tokens - done) / median(speeds))))
    mine = jobs_in_queue(directory, queue or [])
    shown = ", ".join(f"{found.job_id} {found.state.lower()}" for found in mine)
    return (
        str(_short(directory)),
        f"{record.state}: {record.error}" if record.error else _state(record.state, directory, mine, queue is None),
        last.get("phase", ""),
        f"{step:,} / {record.num_steps:,}",
        tokens,
        f"{float(good[-1]['loss']):.3f}" if good else "",
        f"{median(speeds):,.0f}" if speeds else "",
        left,
        shown,
        str(requeues(read_attempts(directory))),
    )


def _state(state: str, directory: Path, queued: Sequence[client.QueuedJob], is_unknown: bool) -> str:
    """The recorded state, unless nobody is there to do what it says, as far as is known."""
    if is_unknown and (directory / "slurm").is_dir():
        return state
    if state == "running" and not queued and holder(directory) is None:
        return "lost (its processes are gone; run the same command to go on)"
    if state == "queued" and not queued and (directory / "slurm").is_dir() and client.is_available():
        return "queued, but not in the queue"
    return state


def _short(directory: Path) -> Path:
    """From where the user stands, when it is below."""
    here = Path.cwd()
    full = directory.resolve()
    return full.relative_to(here) if full.is_relative_to(here) else full


def show_status(directories: Sequence[Path], jobs: Sequence[TrainJob | None]) -> None:
    """Print the table."""
    from rich.table import Table

    from nemotron4_data.terminal import plain_console

    queue = _queue()
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    table = Table(*COLUMNS)
    for directory, job in zip(directories, jobs, strict=True):
        table.add_row(*status_row(directory, job, queue))
    console.print(table)


def _queue() -> list[client.QueuedJob] | None:
    """The queue; None, with a line that says so, where Slurm is installed and does not answer."""
    if not client.is_available():
        return []
    try:
        return client.queue()
    except OSError as error:
        print(f"nemotron4: the queue is unknown ({error})", file=sys.stderr)
        return None


def cancel(job: CancelJob) -> None:
    """End a run's jobs, or its processes on this machine: what runs saves first. Raises ValueError without any."""
    directory = Path(job.run).resolve()
    record = _existing_record(job.run)
    may_be_queued = (directory / "slurm").is_dir() and client.is_available()
    queued = jobs_in_queue(directory, client.queue()) if may_be_queued else []
    if queued:
        client.cancel([found.job_id for found in queued])
        if all(found.state == "PENDING" for found in queued):
            record.state = "stopped"
            write_record(directory, record)
        print(f"cancelled: {', '.join(found.job_id for found in queued)}", file=sys.stderr)
        return
    held = holder(directory)
    if held is None:
        raise ValueError(f"run ({job.run}): nothing of it runs, and nothing of it is in the queue")
    host, pid = held
    if host != socket.gethostname():
        raise ValueError(f"run ({job.run}): runs on {host} as process {pid}; cancel it there")
    os.kill(pid, signal.SIGTERM)
    print(f"told process {pid} to save and end", file=sys.stderr)
