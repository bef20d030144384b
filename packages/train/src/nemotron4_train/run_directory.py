"""A run's directory: where it is, whose it is, and what state it is in.

runs/<name>/<time>/ holds job.yaml (the composed job), run.json (the record: job digest, state, last step),
tokenizer.model, metrics.csv, checkpoints/, export/ and report.*; runs/<name>/latest is a link to the newest.
Invariant: one live launch a directory (an flock on run.lock), and a directory belongs to one job identity, but for
what run.allow_changed lets change.
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
"""The tokenizer of the corpus, with which a run exports without it."""
_MARKS = ("run.json", LOCK_FILE, "sweep_job.yaml")  # whatever begins a run's directory leaves one of them
_MOMENT_SECONDS = 60.0


class RunState(StrEnum):
    """What a run's record says of it."""

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
    """What the digest is of (TrainJob.identity); runs of older versions do not say."""
    id: str | None = None
    """Names the run wherever its directory is: exports and evaluations hold it. Runs of older versions have none."""
    tokenizer: str | None = None
    """SHA-256 of the tokenizer.model that the directory keeps; those of older versions keep none."""

    def __post_init__(self) -> None:
        """Refuse what a damaged file may hold: TypeError."""
        counts = (self.step, self.num_steps)
        texts = (self.job_digest, self.error or "", self.id or "", self.tokenizer or "")
        states: list[str] = list(RunState)
        if self.state not in states or not all(type(count) is int and count >= 0 for count in counts):
            raise TypeError(f"state {str(self.state)!r}, step {self.step!r} of {self.num_steps!r}")
        self.state = RunState(self.state)  # in a file it is text
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.identity, dict | None):
            raise TypeError("job_digest, error, id, tokenizer and identity must be texts and a mapping")


def read_record(directory: Path) -> RunRecord | None:
    """The run's record, or None where there is none."""
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
    """The directory a launch writes: run.dir, or an unfinished run of the same job, or a new one."""
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
    """Refuse what differs from the job that the directory belongs to, but for what run.allow_changed names."""
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
        ways = "repeat what it was started with, or choose another run.dir"
        if all(map(may_change, refused)):
            ways = (
                "repeat what it was started with, choose another run.dir, or go on all the same with"
                f" {_allowing(refused)}"
            )
        raise ValueError(f"run.dir ({directory}): belongs to another job: {shown}; {ways}")


def _allowing(keys: Sequence[str]) -> str:
    """The override that lets keys change, as it is typed: a source's name, such as code/c#, needs quotes."""
    quoted = [key if re.fullmatch(r"[\w./+-]+", key) else f'"{key}"' for key in keys]
    override = f"run.allow_changed=[{','.join(quoted)}]"
    return override if quoted == list(keys) else shlex.quote(override)


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary by dotted keys."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
    return found


def _is_within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def note_start(directory: Path) -> None:
    """The run's record says that it runs."""
    record = read_record(directory)
    assert record is not None
    record.state, record.error = RunState.running, None
    write_record(directory, record)


def record_failure(directory: Path, error: BaseException) -> None:
    """Note in the run's record why it did not end."""
    record = read_record(directory) or RunRecord(job_digest="")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        record.state = RunState.stopped
    else:
        record.state, record.error = RunState.failed, " ".join(str(error).split()) or type(error).__name__
    with suppress(OSError):  # where even that finds no room, the error itself still says so
        write_record(directory, record)


def only_writer(directory: Path) -> AbstractContextManager[None]:
    """One process at a time, of any rank, for a moment."""
    return locks.exclusive(directory / "record.lock", "run.dir", directory, _MOMENT_SECONDS)


def newest_step(directory: Path) -> int:
    """Steps before the newest complete checkpoint, by its name; 0 without any."""
    complete = [path.parent.name for path in (directory / "checkpoints").glob("step-*/manifest.json")]
    return max((int(name.removeprefix("step-")) for name in complete), default=0)


def _latest(root: Path) -> Path | None:
    """The directory that `latest` names, by its own name rather than the link's."""
    link = root / "latest"
    return root / os.readlink(link) if link.is_symlink() and link.exists() else None


def create(directory: Path, job: TrainJob, job_yaml: str, num_steps: int, state: RunState = RunState.running) -> None:
    """Make the directory, its job.yaml and record, and point `latest` at it."""
    root = Path(job.run.root) / job.run.name
    link, staged = root / "latest", root / ".latest.partial"
    if directory.parent == root and link.exists() and not link.is_symlink():
        raise ValueError(f"run.name ({job.run.name}): {link} is not a link of ours: move it elsewhere")
    directory.mkdir(parents=True, exist_ok=True)
    record = read_record(directory) or RunRecord(job_digest="")
    record.job_digest, record.identity = job.digest(), job.identity()
    record.state, record.num_steps, record.error = state, num_steps, None
    if record.id is None or job.resume == "never":  # which starts anew: what was evaluated before is not of it
        record.id = uuid.uuid4().hex
    write_file(directory / "job.yaml", job_yaml.encode())
    write_record(directory, record)
    if directory.parent == root:
        staged.unlink(missing_ok=True)
        staged.symlink_to(directory.name)
        os.replace(staged, link)


def keep_tokenizer(directory: Path, corpus: Corpus) -> None:
    """Have the directory hold the corpus's tokenizer; its record says so. ValueError where that is a file of others."""
    path, record, digest = directory / TOKENIZER, read_record(directory), corpus.tokenizer_digest
    assert record is not None
    found = file_sha256(path) if path.is_file() else None
    if path.exists() and found not in (digest, record.tokenizer):
        raise ValueError(
            f"run.dir ({directory}): holds {TOKENIZER}, which this program did not make: move it elsewhere"
        )
    if found != digest:
        write_file(path, (corpus.dir / TOKENIZER_FILE).read_bytes())
    if record.tokenizer != digest:
        record.tokenizer = digest
        write_record(directory, record)


def exclusive(directory: Path, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
    """Hold the run's lock; raises ValueError when another launch still has it after so long."""
    directory.mkdir(parents=True, exist_ok=True)
    return locks.exclusive(directory / LOCK_FILE, "run.dir", directory, wait_seconds)


def holder(directory: Path) -> tuple[str, int] | None:
    """Host and process that hold the run's lock, as `cancel` needs to know; None when nobody does."""
    return locks.holder(directory / LOCK_FILE)
