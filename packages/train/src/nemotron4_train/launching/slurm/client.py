"""Calls to Slurm's programs, with their errors on one line. Nothing here needs an accounting database.

Only machine-readable output is parsed (--parsable, formats without headers).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_train.launcher_config import LauncherConfig

COMMENT_PREFIX = "nemotron4:"
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A line of the queue."""

    job_id: str
    """As Slurm prints it; 12_3 is task 3 of array 12."""
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits, or the nodes it is on."""
    comment: str


def is_available() -> bool:
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None


def check_cluster(config: LauncherConfig) -> None:
    """Raise ValueError unless Slurm is installed and has the configured partition."""
    check_available()
    check_partition(config)


def check_available() -> None:
    """Raise ValueError when Slurm is not installed."""
    if not is_available():
        raise ValueError(
            "launcher.kind (slurm): sbatch is not on this machine's PATH; submit from a login node,"
            " see the script with launcher.dry_run=true, or use launcher=local"
        )


def submit(script: Path, config: LauncherConfig, options: Sequence[str] = ()) -> str:
    """Submit a script; returns the job's id. Raises a one-line ValueError when Slurm rejects it."""
    done = _run("sbatch", "--parsable", *options, str(script))
    if done.returncode != 0:
        raise ValueError(_refusal(done.stderr, config))
    return done.stdout.strip().split(";")[0]


def queue() -> list[QueuedJob]:
    """This user's waiting and running jobs of this project. Raises OSError when the controller does not answer."""
    return _parse_queue(_output("squeue", "--me", "--all", "--noheader", "--array", "--format=%i|%T|%R|%k"))


def _parse_queue(text: str) -> list[QueuedJob]:
    found = []
    for line in text.splitlines():
        job_id, state, reason, comment = (*line.split("|", 3), "", "", "", "")[:4]
        if comment.startswith(COMMENT_PREFIX):
            found.append(QueuedJob(job_id=job_id, state=state, reason=reason.strip("()"), comment=comment))
    return found


def comment_of(directory: Path) -> str:
    """The Slurm comment that marks a directory's jobs."""
    return f"{COMMENT_PREFIX}{directory.resolve()}"


def state_of(job_id: str) -> str:
    """The state of one job in the queue; empty once it has left. Raises OSError when Slurm does not answer."""
    done = _run("squeue", "--all", "--noheader", "--array", "--format=%T", f"--jobs={job_id}")
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise OSError(f"squeue: {' '.join(done.stderr.split())}")
    return done.stdout.split()[0] if done.stdout.split() else ""


def seconds_to_notice() -> float:
    """Seconds that Slurm may take to notice that a node is dead."""
    match = re.search(r"SlurmdTimeout\s*=\s*(\d+)", _output("scontrol", "show", "config"))
    return 1.5 * int(match[1]) + 15 if match else 0.0


def requeue(job_id: str) -> None:
    """Requeue a running job, but not one that was cancelled meanwhile. Raises OSError when Slurm refuses."""
    _output("scontrol", "requeue", "Incomplete", job_id)


def is_held(job: QueuedJob) -> bool:
    """Whether it waits to be released, as after a launch that was killed between submitting and releasing."""
    return job.reason == "JobHeldUser"


def release(job_id: str) -> None:
    """Let a held job start. Raises OSError when Slurm refuses."""
    _output("scontrol", "release", job_id)


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that run save first, within the cluster's KillWait."""
    if job_ids:
        _output("scancel", *job_ids)


def check_partition(config: LauncherConfig) -> None:
    """Check that the partition exists and allows the requested time: otherwise the job would wait forever."""
    lines = [line.split("|") for line in _output("sinfo", "--all", "--noheader", "--format=%R|%l").splitlines()]
    limits = dict(line for line in lines if len(line) == 2)
    for name in config.partition.split(",") if config.partition else ():
        require(name in limits, "launcher.partition", name, f"Slurm has no such partition; it has: {', '.join(limits)}")
        limit = _minutes(limits[name])
        require(
            config.wall_time_minutes is None or limit is None or config.wall_time_minutes <= limit,
            "launcher.wall_time_minutes",
            config.wall_time_minutes,
            f"partition {name} allows {limit}; request less, since a run continues in its next job, or choose another"
            " launcher.partition",
        )


def _minutes(text: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds, in minutes; None for no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def _refusal(stderr: str, config: LauncherConfig) -> str:
    """What sbatch printed, with the key that fixes it if known."""
    said = " ".join(re.sub(r"sbatch: (error: )?", "", stderr).split())
    for pattern, key, remedy in (
        (r"invalid partition", "partition", "`sinfo` lists the partitions"),
        (r"time limit is invalid", "wall_time_minutes", "request less than the partition's limit, which `sinfo` shows"),
        (r"invalid account", "account", "`sacctmgr show associations` lists yours"),
        (r"invalid qos", "qos", "`sacctmgr show qos` lists them"),
        (r"array", "array", "set it to false, or split the sweep"),
        (r"memory", "memory_per_node", "request what the nodes have, which `sinfo -o '%n %m'` shows"),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return f"launcher.{key} ({getattr(config, key)}): sbatch refuses it ({said}); {remedy}"
    return f"launcher.kind (slurm): sbatch refuses the job ({said}); see its script with launcher.dry_run=true"


def _output(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exited with {done.returncode}'}")
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=_environment(os.environ), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]}: no answer in {_TIMEOUT_SECONDS} s") from error


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """Without the variables that sbatch, squeue and sinfo read as options."""
    return {name: value for name, value in outer.items() if not name.startswith(("SBATCH_", "SQUEUE_", "SINFO_"))}
