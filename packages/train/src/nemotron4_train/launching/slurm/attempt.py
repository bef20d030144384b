"""What a Slurm job does around its workers: `python -m ...slurm.attempt [--leg=N] begin|end RUN`.

begin records the attempt in slurm/attempts.jsonl, and refuses to start again when the job was requeued too often
without a new checkpoint. end decides by the run's own record: done (status 0, so that dependent jobs start), to be
requeued (it was told to save while Slurm still lists it as running), or failed (status 1), after a wait if a node may
have died. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from nemotron4_train.launching.slurm import client
from nemotron4_train.run_directory import (
    RunRecord,
    RunState,
    newest_step,
    note_start,
    read_record,
    record_failure,
    write_record,
)

_T = TypeVar("_T")
ATTEMPTS = Path("slurm") / "attempts.jsonl"
_KILL_SECONDS = 120
_RETRY_SECONDS = 10
_LONGEST_NOTICE_SECONDS = 465.0
_LOST_PEER = re.compile("connection|peer|nccl|gloo|timed out|timeout|broken pipe|recv|socket", re.IGNORECASE)
"""Matches the error of a rank that has lost another one."""


@dataclass(frozen=True)
class Attempt:
    """One start of one of a run's jobs: a line of attempts.jsonl."""

    job: str
    """The job's id."""
    restart: int
    """How many times Slurm had requeued it."""
    leg: int | None
    """None for the job that runs `afterwards`."""
    time: str
    nodes: str
    step: int
    """Step of the newest checkpoint at that time."""


def read_attempts(run: Path) -> list[Attempt]:
    """The starts of the run's jobs, oldest first. Raises ValueError for an invalid line."""
    path = run / ATTEMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # the last may have been cut short
        attempts = [Attempt(**json.loads(line)) for line in whole]
        requeues(attempts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a list of attempts ({error!r}); remove the invalid line") from error
    return attempts


def requeues(attempts: Sequence[Attempt]) -> int:
    """How many of the starts followed a requeue."""
    return sum(attempt.restart > 0 for attempt in attempts)


def begin(run: Path, leg: int | None) -> int:
    """Record the attempt; returns the exit status, 0 to continue."""
    job_id, step = _own_id(), newest_step(run)
    attempt = Attempt(
        job=job_id,
        restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        leg=leg,
        time=datetime.now().isoformat(timespec="seconds"),
        nodes=os.environ.get("SLURM_JOB_NODELIST", ""),
        step=step,
    )
    tried = [other for other in read_attempts(run) if (other.job, other.step) == (job_id, step)]
    with open(run / ATTEMPTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(attempt)) + "\n")
    if leg is None:
        return 0
    limit = json.loads((run / "slurm" / "limits.json").read_text())["max_requeues_without_progress"]
    if len(tried) <= limit:
        note_start(run)  # so that `end` reads the state of this attempt
        return 0
    _fail(run, f"requeued {limit} times without a checkpoint after step {step}; see {run}/slurm, then start it again")
    return 1


def end(run: Path, leg: int | None, status: int) -> int:
    """Record how the workers ended; returns the job's exit status."""
    record = read_record(run)
    assert record is not None
    if leg is None:
        again = f"start it again with run.dir={run}"
        record.error = f"afterwards ended with status {status}; see {run}/slurm; {again}" if status else None
        write_record(run, record)
        return status
    if record.state in (RunState.complete, RunState.queued):  # the whole run, or this leg
        return 0
    told_to_save = 128 + signal.SIGUSR1, 128 + signal.SIGTERM  # before the workers had handlers
    if record.state is RunState.stopped or (record.state is RunState.running and status in told_to_save):
        return _go_on_later(run, record)
    reason = record.error or f"the workers of job {_own_id()} ended with status {status}; see its log"
    lost_peer = record.state is RunState.running or _LOST_PEER.search(reason)
    if lost_peer and _insist(lambda: client.state_of(_own_id())) == "PENDING":  # requeued while this script ends
        record.state, record.error = RunState.queued, None
        write_record(run, record)
        return 75
    _fail(run, reason)
    if lost_peer:
        _wait_for_a_dead_node()
    return 1


def _go_on_later(run: Path, record: RunRecord) -> int:
    """Requeue this job, unless it was cancelled or Slurm requeues it itself."""
    job_id = _own_id()
    if _insist(lambda: client.state_of(job_id)) != "RUNNING":
        record.state = RunState.stopped
        write_record(run, record)
        return 75
    record.state = RunState.queued
    write_record(run, record)
    print(f"job {job_id} is requeued, to resume after step {newest_step(run)}", file=sys.stderr, flush=True)
    _insist(lambda: client.requeue(job_id))
    time.sleep(_KILL_SECONDS)  # Slurm ends this script
    return 75


def _own_id() -> str:
    """This job's id as Slurm writes it; the plain number of an array's task can mean the whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _insist(ask: Callable[[], _T]) -> _T:
    """Ask Slurm again until it answers: its controller may be restarting or busy."""
    for _ in range(20):
        try:
            return ask()
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(_RETRY_SECONDS)
    return ask()


def _wait_for_a_dead_node() -> None:
    """Ranks notice a dead node long before Slurm does: when it notices, it ends this script and requeues the job."""
    try:
        seconds = client.seconds_to_notice()
    except OSError:
        seconds = _LONGEST_NOTICE_SECONDS
    print(f"waiting {seconds:.0f} s for Slurm to report whether a node is dead", file=sys.stderr, flush=True)
    time.sleep(seconds)


def _fail(run: Path, reason: str) -> None:
    record_failure(run, RuntimeError(reason))
    print(f"nemotron4 train: {reason}", file=sys.stderr)


def main() -> int:
    """The command line that the batch script calls."""
    parser = ArgumentParser(prog="nemotron4_train.launching.slurm.attempt")
    parser.add_argument("--leg", type=int, default=None)
    parser.add_argument("moment", choices=("begin", "end"))
    parser.add_argument("run", type=Path)
    parser.add_argument("status", type=int, nargs="?", default=0)
    given = parser.parse_args()
    return begin(given.run, given.leg) if given.moment == "begin" else end(given.run, given.leg, given.status)


if __name__ == "__main__":
    sys.exit(main())
