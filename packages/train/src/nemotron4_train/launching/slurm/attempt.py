"""What a Slurm job does around its workers: `python -m ...slurm.attempt [--leg=N] begin|end RUN`.

begin notes the attempt in slurm/attempts.jsonl, and refuses to start once more when the job was queued again and again
without a new checkpoint. end decides by the run's own record: done (status 0, so that what depends on it starts), to be
queued again (it was told to save while Slurm still holds it as running), or failed (status 1), which waits when it may
be a node that died. Nothing here imports torch.
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
"""In what a rank says that has lost another one."""


@dataclass(frozen=True)
class Attempt:
    """A start of one of a run's jobs: a line of attempts.jsonl."""

    job: str
    """Its id."""
    restart: int
    """How often Slurm had queued it again."""
    leg: int | None
    """None of the job that runs `afterwards`."""
    time: str
    nodes: str
    step: int
    """Of the newest checkpoint then."""


def read_attempts(run: Path) -> list[Attempt]:
    """The starts of the run's jobs, oldest first. Raises ValueError for a line that is none."""
    path = run / ATTEMPTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # the last may have been cut short
        attempts = [Attempt(**json.loads(line)) for line in whole]
        requeues(attempts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a list of attempts ({error!r}); remove the line that is none") from error
    return attempts


def requeues(attempts: Sequence[Attempt]) -> int:
    """How often jobs were started again."""
    return sum(attempt.restart > 0 for attempt in attempts)


def begin(run: Path, leg: int | None) -> int:
    """Note the attempt; returns the exit status, 0 to go on."""
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
        note_start(run)  # what `end` reads is of this attempt
        return 0
    _fail(
        run, f"queued again {limit} times without a checkpoint after step {step}; see {run}/slurm, then start it anew"
    )
    return 1


def end(run: Path, leg: int | None, status: int) -> int:
    """Say how the workers ended; returns the job's exit status."""
    record = read_record(run)
    assert record is not None
    if leg is None:
        again = f"start it again with run.dir={run}"
        record.error = f"afterwards ended with status {status}; see {run}/slurm; {again}" if status else None
        write_record(run, record)
        return status
    if record.state in (RunState.complete, RunState.queued):  # all of it, or this leg
        return 0
    told_to_save = 128 + signal.SIGUSR1, 128 + signal.SIGTERM  # before the workers could listen
    if record.state is RunState.stopped or (record.state is RunState.running and status in told_to_save):
        return _go_on_later(run, record)
    reason = record.error or f"the workers of job {_own_id()} ended with status {status}; see its log"
    lost_peer = record.state is RunState.running or _LOST_PEER.search(reason)
    if lost_peer and _insist(lambda: client.state_of(_own_id())) == "PENDING":  # queued again while this script ends
        record.state, record.error = RunState.queued, None
        write_record(run, record)
        return 75
    _fail(run, reason)
    if lost_peer:
        _wait_for_a_dead_node()
    return 1


def _go_on_later(run: Path, record: RunRecord) -> int:
    """Queue this job again, unless it was cancelled, or Slurm does it."""
    job_id = _own_id()
    if _insist(lambda: client.state_of(job_id)) != "RUNNING":
        record.state = RunState.stopped
        write_record(run, record)
        return 75
    record.state = RunState.queued
    write_record(run, record)
    print(f"job {job_id} is queued again, to go on after step {newest_step(run)}", file=sys.stderr, flush=True)
    _insist(lambda: client.requeue(job_id))
    time.sleep(_KILL_SECONDS)  # Slurm ends this script
    return 75


def _own_id() -> str:
    """This job in Slurm's words; the plain number of one task of an array means the whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _insist(ask: Callable[[], _T]) -> _T:
    """What Slurm answers, which may take a while: a controller restarts, or is busy."""
    for _ in range(20):
        try:
            return ask()
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(_RETRY_SECONDS)
    return ask()


def _wait_for_a_dead_node() -> None:
    """Ranks lose a dead node long before Slurm does: when it notices, it ends this script and queues the job again."""
    try:
        seconds = client.seconds_to_notice()
    except OSError:
        seconds = _LONGEST_NOTICE_SECONDS
    print(f"waits {seconds:.0f} s for Slurm to say whether a node is dead", file=sys.stderr, flush=True)
    time.sleep(seconds)


def _fail(run: Path, reason: str) -> None:
    record_failure(run, RuntimeError(reason))
    print(f"nemotron4 train: {reason}", file=sys.stderr)


def main() -> int:
    """The command line of the batch script."""
    parser = ArgumentParser(prog="nemotron4_train.launching.slurm.attempt")
    parser.add_argument("--leg", type=int, default=None)
    parser.add_argument("moment", choices=("begin", "end"))
    parser.add_argument("run", type=Path)
    parser.add_argument("status", type=int, nargs="?", default=0)
    given = parser.parse_args()
    return begin(given.run, given.leg) if given.moment == "begin" else end(given.run, given.leg, given.status)


if __name__ == "__main__":
    sys.exit(main())
