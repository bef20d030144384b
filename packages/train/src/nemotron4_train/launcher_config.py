"""What starts the workers: this machine, or Slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from nemotron4_common.rules import require

MAX_THREADS = 1024
"""Limit per rank: more than any machine has, since a process with far too many threads crashes."""


class LauncherKind(Enum):
    """Where the workers run."""

    local = "local"
    slurm = "slurm"


@dataclass(kw_only=True)
class LauncherConfig:
    """The launcher; nodes, tasks and GPUs per node follow from the topology."""

    kind: LauncherKind = LauncherKind.local
    """Where the workers are started: local (this machine) or slurm."""
    num_threads: int | None = None
    """CPU threads per rank; null shares the machine's cores among its ranks (local), or takes cpus_per_task (slurm)."""
    max_jobs_at_once: int = 1
    """Jobs of a sweep that run at the same time."""
    dry_run: bool = False
    """Write the run directory and print what would start the job, without starting it."""
    force: bool = False
    """Submit to Slurm, with a warning, even a leg whose predicted memory is more than a GPU of topology.machine has."""
    health_check: bool = False
    """Before training on several ranks, have each compute, and all of them reduce, a known answer; both are checked and
    timed."""
    health_check_max_slowdown: float = 3.0
    """A GPU that takes more than this many times the median time fails the health check."""
    partition: str | None = None
    """Slurm partition; null is the cluster's default."""
    account: str | None = None
    """Slurm account; null is the user's default."""
    qos: str | None = None
    """Slurm quality of service; null is the account's default."""
    wall_time_minutes: int | None = None
    """Minutes that a job may run, after which it saves and is queued again; null is the partition's limit."""
    signal_lead_seconds: int = 300
    """Seconds before the time limit, or before a preemption, at which a job is told to save: more than a step and a
    save take."""
    max_requeues_without_progress: int = 3
    """A job that has been queued again this many times without a new checkpoint fails instead of starting once more."""
    cpus_per_task: int | None = None
    """CPU cores per rank; null leaves it to Slurm."""
    memory_per_node: str | None = None
    """Memory per node, as Slurm writes it (64G; 0 is all of it); null is the partition's default."""
    exclusive: bool = True
    """Share nodes with no other job."""
    exclude: list[str] = field(default_factory=list)
    """Nodes not to run on, such as those that failed the health check."""
    constraint: str | None = None
    """Features that nodes must have, as Slurm writes them; null asks for none."""
    container_image: str | None = None
    """Container image that the workers run in, by Slurm's plugin pyxis; null runs them on the node itself."""
    container_mounts: list[str] = field(default_factory=list)
    """Directories that the container sees, each as HOST:CONTAINER."""
    setup: list[str] = field(default_factory=list)
    """Shell lines that run before anything is started, such as `module load cuda` or `source .venv/bin/activate`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job."""
    python: str | None = None
    """Python interpreter on the nodes; null is the one that runs this command."""
    array: bool = True
    """Submit the jobs of a sweep that ask for the same machines as one array; false submits them one by one."""
    sbatch_options: list[str] = field(default_factory=list)
    """Further options of sbatch, each as `--name=value`."""

    def __post_init__(self) -> None:
        """Refuse settings that no launcher can carry out."""
        threads = self.num_threads or 1
        require(threads <= MAX_THREADS, "launcher.num_threads", threads, f"must be at most {MAX_THREADS}, or null")
        for key in ("num_threads", "wall_time_minutes", "cpus_per_task"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"launcher.{key}", value, "must be at least 1, or null")
        for key in ("max_jobs_at_once", "signal_lead_seconds", "max_requeues_without_progress"):
            require(getattr(self, key) >= 1, f"launcher.{key}", getattr(self, key), "must be at least 1")
        slowdown = self.health_check_max_slowdown
        require(slowdown > 1, "launcher.health_check_max_slowdown", slowdown, "must be above 1")
        limit = self.wall_time_minutes
        require(
            limit is None or self.signal_lead_seconds < 60 * limit,
            "launcher.signal_lead_seconds",
            self.signal_lead_seconds,
            f"must be less than launcher.wall_time_minutes = {limit}",
        )
        for name in self.environment:
            require(bool(re.fullmatch(r"[A-Za-z_]\w*", name)), "launcher.environment", name, "not a variable's name")
        for option in self.sbatch_options:
            require(
                bool(re.fullmatch(r"--[a-z][\w-]*(=.*)?", option)),
                "launcher.sbatch_options",
                option,
                "must look like --name=value",
            )
        for key in ("partition", "account", "qos", "constraint", "memory_per_node", "container_image"):
            value = getattr(self, key)
            require(value is None or not re.search(r"\s", value), f"launcher.{key}", value, "must not contain spaces")
