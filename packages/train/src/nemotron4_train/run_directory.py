"""A run's directory: where it is, which job it belongs to, and what state it is in.

runs/<name>/<time>/ holds job.yaml (the composed job), run.json (the record: job digest, state, last step),
tokenizer.model, metrics.csv, checkpoints/, export/ and report.*; runs/<name>/latest is a link to the newest.
Invariant: at most one live launch per directory (an flock on run.lock), and a directory belongs to one job identity,
except for what run.allow_changed permits.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from nemotron4_common import locks
from nemotron4_common.ownership import check_apart, check_new_or_ours
from nemotron4_common.staging import file_sha256, write_file
from nemotron4_data import Corpus
from nemotron4_data.manifest import TOKENIZER_FILE
from nemotron4_train.job import TrainJob, may_change

LOCK_FILE = "run.lock"
TOKENIZER = "tokenizer.model"
"""A copy of the corpus's tokenizer, so that a run can be exported without the corpus."""
_MARKS = ("run.json", LOCK_FILE, "sweep_job.yaml")  # every run directory has at least one of these
_MOMENT_SECONDS = 60.0


class RunState(StrEnum):
    """The state of a run, as in its record."""

    queued = "queued"
    """Written, and waiting for its job, or for the job of its next leg."""
    running = "running"
    stopped = "stopped"
    """By a signal, after saving."""
    failed = "failed"
    complete = "complete"


@dataclass
class RunRecord:
    """run.json."""

    job_digest: str
    state: RunState = RunState.running
    step: int = 0
    num_steps: int = 0
    error: str | None = None
    objective: float | None = None
    """Final validation bits per byte, when the run is complete."""
    identity: dict[str, Any] | None = None
    """What the digest covers (TrainJob.identity); None in runs of older versions."""
    id: str | None = None
    """Identifies the run wherever its directory is; exports and evaluations record it. None in older versions' runs."""
    tokenizer: str | None = None
    """SHA-256 of the directory's tokenizer.model; None in runs of older versions, which have no such file."""
    deterministic: bool | None = None
    """Whether the newest start used deterministic kernels; None before the first, and in runs of older versions."""
    gpu: str | None = None
    """What CUDA calls the first rank's GPU of the newest start; None without one, and in runs of older versions."""

    def __post_init__(self) -> None:
        """Raise TypeError for values that only a damaged file could contain."""
        counts = (self.step, self.num_steps)
        texts = (self.job_digest, self.error or "", self.id or "", self.tokenizer or "", self.gpu or "")
        states: list[str] = list(RunState)
        if self.state not in states or not all(type(count) is int and count >= 0 for count in counts):
            raise TypeError(f"state {str(self.state)!r}, step {self.step!r} of {self.num_steps!r}")
        self.state = RunState(self.state)  # a plain string when read from a file
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.identity, dict | None):
            raise TypeError("job_digest, error, id, tokenizer and gpu must be strings, and identity a mapping")


def read_record(directory: Path) -> RunRecord | None:
    """The run's record, or None if there is none. Raises ValueError when it is damaged."""
    path = directory / "run.json"
    if not path.is_file():
        return None
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a run record ({error}); restore it, or choose another run.dir") from error


def write_record(directory: Path, record: RunRecord) -> None:
    """Replace run.json atomically."""
    write_file(directory / "run.json", (json.dumps(asdict(record), indent=1) + "\n").encode())


def choose_directory(job: TrainJob, num_steps: int) -> Path:
    """The directory that a launch writes to: run.dir, or an unfinished run of the same job, or a new one."""
    root = Path(job.run.root) / job.run.name
    if job.run.dir is not None:
        directory = Path(job.run.dir)
        check_new_or_ours(directory, "run.dir", _MARKS)
        check_apart(directory, "run.dir", [("data.dir", job.data.dir)])
        record = read_record(directory)
        if record is not None and record.job_digest != job.digest():
            _check_changes(directory, record, job)
        return directory
    if job.resume == "auto" and (latest := _latest(root)) is not None:
        record = read_record(latest)
        unfinished = record is not None and (record.state is not RunState.complete or record.step < num_steps)
        if record is not None and record.job_digest == job.digest() and unfinished:
            return latest
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    directory = root / stamp
    for attempt in range(2, 100):
        if not directory.exists():
            break
        directory = root / f"{stamp}_{attempt}"
    return directory


def _check_changes(directory: Path, record: RunRecord, job: TrainJob) -> None:
    """Raise ValueError for differences from the directory's job that run.allow_changed does not list."""
    if record.identity is None:
        raise ValueError(
            f"run.dir ({directory}): belongs to another job (its job.yaml differs); choose another run.dir,"
            " or repeat the overrides it was started with"
        )
    before, now = flat(record.identity), flat(job.identity())
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    refused = [key for key in changed if not any(_is_within(key, name) for name in job.run.allow_changed)]
    if refused:
        shown = "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in refused)
        ways = "repeat the overrides it was started with, or choose another run.dir"
        if all(map(may_change, refused)):
            ways = (
                "repeat the overrides it was started with, choose another run.dir, or continue anyway with"
                f" {_allowing(refused)}"
            )
        raise ValueError(f"run.dir ({directory}): belongs to another job: {shown}; {ways}")


def _allowing(keys: Sequence[str]) -> str:
    """The override that lets keys change, as typed in a shell: a source's name, such as code/c#, needs quotes."""
    quoted = [key if re.fullmatch(r"[\w./+-]+", key) else f'"{key}"' for key in keys]
    override = f"run.allow_changed=[{','.join(quoted)}]"
    return override if quoted == list(keys) else shlex.quote(override)


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dictionary to dotted keys."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return found


def _is_within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def note_start(directory: Path) -> None:
    """Mark the run as running in its record."""
    record = read_record(directory)
    assert record is not None
    record.state, record.error = RunState.running, None
    write_record(directory, record)


def record_failure(directory: Path, error: BaseException) -> None:
    """Record why the run stopped or failed."""
    record = read_record(directory) or RunRecord(job_digest="")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        record.state = RunState.stopped
    else:
        record.state, record.error = RunState.failed, " ".join(str(error).split()) or type(error).__name__
    with suppress(OSError):  # on a full disk, the user still sees the error itself
        write_record(directory, record)


def only_writer(directory: Path) -> AbstractContextManager[None]:
    """A short lock that lets one process at a time, of any rank, write the record."""
    return locks.exclusive(directory / "record.lock", "run.dir", directory, _MOMENT_SECONDS)


def newest_step(directory: Path) -> int:
    """Steps before the newest complete checkpoint, from its name; 0 if there is none."""
    complete = [path.parent.name for path in (directory / "checkpoints").glob("step-*/manifest.json")]
    return max((int(name.removeprefix("step-")) for name in complete), default=0)


def _latest(root: Path) -> Path | None:
    """The directory that the link `latest` points to, under its own name."""
    link = root / "latest"
    return root / os.readlink(link) if link.is_symlink() and link.exists() else None


def create(directory: Path, job: TrainJob, job_yaml: str, num_steps: int, state: RunState = RunState.running) -> None:
    """Make the directory, its job.yaml and record, and point `latest` at it."""
    root = Path(job.run.root) / job.run.name
    link, staged = root / "latest", root / ".latest.partial"
    if directory.parent == root and link.exists() and not link.is_symlink():
        raise ValueError(f"run.name ({job.run.name}): {link} is not a symbolic link; move it elsewhere")
    directory.mkdir(parents=True, exist_ok=True)
    record = read_record(directory) or RunRecord(job_digest="")
    record.job_digest, record.identity = job.digest(), job.identity()
    record.state, record.num_steps, record.error = state, num_steps, None
    if record.id is None or job.resume == "never":  # starts over: earlier evaluations are not this run's
        record.id = uuid.uuid4().hex
    write_file(directory / "job.yaml", job_yaml.encode())
    write_record(directory, record)
    if directory.parent == root:
        staged.unlink(missing_ok=True)
        staged.symlink_to(directory.name)
        os.replace(staged, link)


def keep_tokenizer(directory: Path, corpus: Corpus) -> None:
    """Copy the corpus's tokenizer into the directory and record it. Raises ValueError when a user's file is there."""
    path, record, digest = directory / TOKENIZER, read_record(directory), corpus.tokenizer_digest
    assert record is not None
    found = file_sha256(path) if path.is_file() else None
    if path.exists() and found not in (digest, record.tokenizer):
        raise ValueError(
            f"run.dir ({directory}): contains {TOKENIZER}, which this program did not create: move it elsewhere"
        )
    if found != digest:
        write_file(path, (corpus.dir / TOKENIZER_FILE).read_bytes())
    if record.tokenizer != digest:
        record.tokenizer = digest
        write_record(directory, record)


def exclusive(directory: Path, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
    """Hold the run's lock; raises ValueError when another launch still has it after `wait_seconds`."""
    directory.mkdir(parents=True, exist_ok=True)
    return locks.exclusive(directory / LOCK_FILE, "run.dir", directory, wait_seconds)


def holder(directory: Path) -> tuple[str, int] | None:
    """Host and process id that hold the run's lock, which `cancel` needs; None when it is free."""
    return locks.holder(directory / LOCK_FILE)
