"""A run's directory: where it is, whose it is, and what state it is in.

runs/<name>/<time>/ holds job.yaml (the composed job), run.json (the record: job digest, state, last step),
metrics.csv, checkpoints/, export/ and report.*; runs/<name>/latest is a link to the newest. Invariant: one live
launch a directory (an flock on run.lock), and a directory belongs to one job digest for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from nemotron4_data.staging import write_file
from nemotron4_train.job import TrainJob

STATES = ("running", "stopped", "failed", "complete")


@dataclass
class RunRecord:
    """run.json."""

    job_digest: str
    state: str = "running"
    step: int = 0
    num_steps: int = 0
    error: str | None = None
    objective: float | None = None
    """Final validation bits per byte, when the run is complete."""


def read_record(directory: Path) -> RunRecord | None:
    """The run's record, or None where there is none."""
    path = directory / "run.json"
    if not path.is_file():
        return None
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a run record ({error}); choose another run.dir") from error


def write_record(directory: Path, record: RunRecord) -> None:
    """Replace run.json atomically."""
    assert record.state in STATES
    write_file(directory / "run.json", (json.dumps(asdict(record), indent=1) + "\n").encode())


def choose_directory(job: TrainJob, num_steps: int) -> Path:
    """The directory a launch writes: run.dir, or an unfinished run of the same job, or a new one."""
    root = Path(job.run.root) / job.run.name
    if job.run.dir is not None:
        directory = Path(job.run.dir)
        record = read_record(directory)
        if record is not None and record.job_digest != job.digest():
            raise ValueError(
                f"run.dir ({directory}): belongs to another job (its job.yaml differs); choose another run.dir,"
                " or repeat the overrides it was started with"
            )
        return directory
    if job.resume == "auto" and (latest := _latest(root)) is not None:
        record = read_record(latest)
        unfinished = record is not None and (record.state != "complete" or record.step < num_steps)
        if record is not None and record.job_digest == job.digest() and unfinished:
            return latest
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    directory = root / stamp
    for attempt in range(2, 100):
        if not directory.exists():
            break
        directory = root / f"{stamp}_{attempt}"
    return directory


def _latest(root: Path) -> Path | None:
    """The directory that `latest` names, by its own name rather than the link's."""
    link = root / "latest"
    return root / os.readlink(link) if link.is_symlink() and link.exists() else None


def create(directory: Path, job: TrainJob, job_yaml: str, num_steps: int) -> None:
    """Make the directory, its job.yaml and record, and point `latest` at it."""
    directory.mkdir(parents=True, exist_ok=True)
    record = read_record(directory) or RunRecord(job_digest=job.digest())
    record.state, record.num_steps, record.error = "running", num_steps, None
    write_file(directory / "job.yaml", job_yaml.encode())
    write_record(directory, record)
    if directory.parent == Path(job.run.root) / job.run.name:
        link, staged = directory.parent / "latest", directory.parent / ".latest.partial"
        staged.unlink(missing_ok=True)
        staged.symlink_to(directory.name)
        os.replace(staged, link)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the run's lock; raises ValueError when another launch has it."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "run.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"run.dir ({directory}): another launch is running in it; wait for it, or choose another run.dir"
            ) from error
        yield
