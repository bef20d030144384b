"""Run the jobs of a sweep on Slurm: submit those that request the same machines as arrays, and wait for all.

Invariant: a job already in the queue is followed, never submitted again, so the same command resumes a sweep whose
terminal is gone.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nemotron4_common.staging import write_file
from nemotron4_train.job import TrainJob
from nemotron4_train.launcher_config import LauncherKind
from nemotron4_train.launching.afterwards import check_afterwards
from nemotron4_train.launching.legs import legs
from nemotron4_train.launching.preflight import check_checkpoint, check_corpus, check_machine
from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.script import leg_script
from nemotron4_train.launching.slurm.submit import (
    SubmittedJob,
    jobs_in_queue,
    note_jobs,
    prepare_directory,
    read_jobs,
    submit_chain,
    write_scripts,
)
from nemotron4_train.run_directory import RunState, create, exclusive, keep_tokenizer, read_record

Report = Callable[[int, float | None, str | None], None]
"""Called as each job ends, with its index, objective and error."""
_POLL_SECONDS = 2.0
_MAX_SILENCE_SECONDS = 600.0


@dataclass(frozen=True)
class _Ready:
    """A job whose directory is written, ready to be submitted."""

    directory: Path
    job: TrainJob
    done_steps: int


def run_jobs(jobs: Sequence[tuple[Path, TrainJob]], report: Report) -> bool:
    """Submit and wait; False if they are not for Slurm. ValueError: invalid `afterwards`, or sbatch fails."""
    kinds = {job.launcher.kind for _, job in jobs}
    if LauncherKind.slurm not in kinds:
        return False
    if len(kinds) > 1:
        raise ValueError("launcher.kind (local, slurm): the jobs of a sweep use one launcher; sweep over another key")
    if any(job.launcher.dry_run for _, job in jobs):
        raise ValueError("launcher.dry_run (true): shows the script of a single job; leave out -m")
    for job in {tuple(job.afterwards): job for _, job in jobs}.values():  # once, since composing takes seconds
        check_afterwards(job)
    client.check_available()
    queue = _settle_held(jobs)
    ready: list[_Ready] = []
    waiting: dict[int, Path] = {}
    for index, (directory, job) in enumerate(jobs):
        if not jobs_in_queue(directory, queue):
            try:
                ready.append(_write(directory, job))
            except (ValueError, OSError) as error:
                report(index, None, " ".join(str(error).split()))
                continue
        waiting[index] = directory
    _submit(ready)
    print(f"{len(waiting)} jobs on Slurm; Ctrl-C leaves them there, the same command follows them", file=sys.stderr)
    _wait(waiting, report)
    return True


def _settle_held(jobs: Sequence[tuple[Path, TrainJob]]) -> list[client.QueuedJob]:
    """The queue, after the jobs that a killed launch left held are released, if a directory has them, or cancelled."""
    queue = client.queue()
    noted = {found.job_id for directory, _ in jobs for found in jobs_in_queue(directory, queue)}
    ours = client.comment_of(jobs[0][0].parent)
    held = [found for found in queue if client.is_held(found) and (found.comment == ours or found.job_id in noted)]
    for found in held:
        if found.job_id in noted:
            client.release(found.job_id)
        else:
            client.cancel([found.job_id])
    return [found for found in queue if found not in held or found.job_id in noted]


def _write(directory: Path, job: TrainJob) -> _Ready:
    """Check a job as `launch` does, and make its directory; the sweep has already written its sweep_job.yaml."""
    timeline = job.timeline()
    check_machine(job)
    corpus = check_corpus(job, directory)
    done_steps = check_checkpoint(job, corpus, directory, timeline)
    with exclusive(directory):
        create(directory, job, (directory / "sweep_job.yaml").read_text(), timeline.num_steps, RunState.queued)
        keep_tokenizer(directory, corpus)
    prepare_directory(directory, job)
    return _Ready(directory, job, done_steps)


def _submit(ready: Sequence[_Ready]) -> None:
    arrays: dict[str, list[_Ready]] = {}
    for each in ready:
        chain = legs(each.job)
        if each.job.launcher.array and len(chain) == 1 and not each.job.afterwards:
            arrays.setdefault(f"{each.job.launcher} {chain[0].topology}", []).append(each)
        else:
            submit_chain(each.job, each.directory, write_scripts(each.job, each.directory, each.done_steps))
    for same in arrays.values():
        _submit_array(same)


def _submit_array(same: Sequence[_Ready]) -> None:
    """Submit jobs that request the same machines as one array, held until each directory has recorded its task."""
    config, directories = same[0].job.launcher, [each.directory for each in same]
    text = leg_script(config, legs(same[0].job)[0].topology, directories, "sweep", 0)
    logs = directories[0].parent / "slurm"
    logs.mkdir(exist_ok=True)
    script = logs / f"array-{hashlib.sha256(text.encode()).hexdigest()[:8]}.sbatch"
    write_file(script, text.encode())
    tasks = f"--array=0-{len(same) - 1}%{config.max_jobs_at_once}"
    array = client.submit(script, config, [tasks, "--hold"])
    try:
        for task, directory in enumerate(directories):
            note_jobs(directory, [SubmittedJob(f"{array}_{task}", "sweep")])
        client.release(array)
    except BaseException:
        client.cancel([array])
        raise
    print(f"submitted array {array} of {len(same)} jobs; logs: {logs}/{array}_*.log", file=sys.stderr)


def _wait(waiting: dict[int, Path], report: Report) -> None:
    """Wait until every job has left the queue. Raises OSError when Slurm does not answer for ten minutes."""
    heard = time.monotonic()
    while waiting:
        try:
            queue = client.queue()
            heard = time.monotonic()
        except OSError:
            if time.monotonic() - heard > _MAX_SILENCE_SECONDS:
                raise
            time.sleep(_POLL_SECONDS)
            continue
        for index, directory in list(waiting.items()):
            if not jobs_in_queue(directory, queue):
                report(index, *_outcome(directory))
                del waiting[index]
        if waiting:
            time.sleep(_POLL_SECONDS)


def _outcome(directory: Path) -> tuple[float | None, str | None]:
    """(objective, error) of a run whose jobs have left the queue."""
    record = None
    with suppress(ValueError):
        record = read_record(directory)
    if record is None:
        return None, f"{directory}: its record is gone"
    if record.state is RunState.complete:
        return (None, record.error) if record.error else (record.objective, None)
    if record.state is RunState.failed:
        return None, record.error
    ids = ", ".join(job.id for job in read_jobs(directory))
    return None, f"{record.state}: job {ids} left the queue at step {record.step}; the same command resumes it"
