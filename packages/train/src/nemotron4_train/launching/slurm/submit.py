"""Submit a run: one job per leg, each after the one before it, then a job for the `afterwards` commands.

Invariant: the whole chain is submitted or none of it, and nothing is submitted for a run that has jobs in the queue.
Those are found by their comment, so a launch that was killed between submitting jobs and recording them does no harm.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nemotron4_common.staging import write_file
from nemotron4_train.job import TrainJob
from nemotron4_train.launching.legs import commands_afterwards, legs_left
from nemotron4_train.launching.slurm import client
from nemotron4_train.launching.slurm.script import afterwards_script, leg_script

JOBS_FILE = Path("slurm") / "jobs.json"


@dataclass(frozen=True)
class Script:
    """A script to submit, and its job's name."""

    name: str
    path: Path


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a run, as recorded in jobs.json."""

    id: str
    name: str


def jobs_in_queue(directory: Path, queue: Sequence[client.QueuedJob]) -> list[client.QueuedJob]:
    """The queued jobs of a run's directory, found by their comment or, for a task of a sweep's array, by id."""
    ids = {job.id for job in read_jobs(directory)}
    comment = client.comment_of(directory)
    return [job for job in queue if job.comment == comment or job.job_id in ids]


def check_not_queued(directory: Path) -> None:
    """Raise ValueError when a job of the directory is waiting or running."""
    if found := jobs_in_queue(directory, client.queue()):
        ids = ", ".join(f"{job.job_id} ({_state(job)})" for job in found)
        raise ValueError(
            f"run.dir ({directory}): its jobs are already in the queue: {ids}; nothing was submitted;"
            f" follow them with `nemotron4 status run={directory}`, stop them with `nemotron4 cancel run={directory}`"
        )


def _state(job: client.QueuedJob) -> str:
    return f"held, `scontrol release {job.job_id}` starts it" if client.is_held(job) else job.state.lower()


def write_scripts(job: TrainJob, directory: Path, done_steps: int) -> list[Script]:
    """Render the scripts of the remaining jobs, in order, below the run's directory."""
    left = legs_left(job, done_steps)
    slurm = prepare_directory(directory, job)
    scripts = []
    for number, leg in left:
        text = leg_script(job.launcher, leg.topology, directory, leg.name, number)
        scripts.append(_write(slurm / f"leg-{number}.sbatch", leg.name, text))
    if job.afterwards:
        commands = commands_afterwards(job, directory, job.launcher.python or sys.executable)
        text = afterwards_script(job.launcher, left[-1][1].topology.device, directory, commands)
        scripts.append(_write(slurm / "afterwards.sbatch", "afterwards", text))
    return scripts


def prepare_directory(directory: Path, job: TrainJob) -> Path:
    """Make the directory of a run's Slurm logs and scripts, with the limits that its jobs read."""
    slurm = directory / "slurm"
    slurm.mkdir(parents=True, exist_ok=True)
    limits = {"max_requeues_without_progress": job.launcher.max_requeues_without_progress}
    write_file(slurm / "limits.json", json.dumps(limits).encode())
    return slurm


def _write(path: Path, name: str, text: str) -> Script:
    write_file(path, text.encode())
    return Script(name, path)


def submit_chain(job: TrainJob, directory: Path, scripts: Sequence[Script]) -> None:
    """Submit the scripts, each to start after the one before succeeds. Raises ValueError when one is rejected."""
    submitted: list[str] = []
    try:
        for script in scripts:
            after = [f"--dependency=afterok:{submitted[-1]}", "--kill-on-invalid-dep=yes"] if submitted else ["--hold"]
            submitted.append(client.submit(script.path, job.launcher, after))
        note_jobs(
            directory,
            [SubmittedJob(found, script.name) for found, script in zip(submitted, scripts, strict=True)],
        )
        client.release(submitted[0])
    except BaseException:
        client.cancel(submitted)
        raise
    for found, script in zip(submitted, scripts, strict=True):
        print(f"submitted job {found} ({script.name})", file=sys.stderr)
    print(
        f"follow it: nemotron4 status run={directory}; tail -F {directory}/slurm/{submitted[0]}.log;"
        f" stop it: nemotron4 cancel run={directory}",
        file=sys.stderr,
    )


def note_jobs(directory: Path, jobs: Sequence[SubmittedJob]) -> None:
    """Write jobs.json."""
    write_file(directory / JOBS_FILE, json.dumps([asdict(job) for job in jobs], indent=1).encode())


def read_jobs(directory: Path) -> list[SubmittedJob]:
    """The jobs last submitted for a run. Raises ValueError when the file is damaged."""
    path = directory / JOBS_FILE
    try:
        jobs = json.loads(path.read_text()) if path.is_file() else []
        return [SubmittedJob(str(job["id"]), str(job["name"])) for job in jobs]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a list of jobs ({error!r}); remove it, and check the queue with squeue"
        ) from error
