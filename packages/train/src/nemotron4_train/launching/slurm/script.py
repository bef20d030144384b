"""Render a batch script: launchers/slurm/job.sbatch filled in from the launcher and the topology.

Every value from the user is quoted for the shell; the template fixes the order of the parts and has no logic.
"""

from __future__ import annotations

import shlex
import string
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.slurm.client import comment_of
from nemotron4_train.topology import Device, TopologyConfig

# Ranks meet at the first node; jobs that share a machine use different ports.
_MEETING = (
    'export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"',
    'export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 12000))}"',
)


class _Template(string.Template):
    delimiter = "@"


def leg_script(
    config: LauncherConfig, topology: TopologyConfig, run: Path | Sequence[Path], name: str, leg: int
) -> str:
    """The script of one leg of a run; for a sequence of directories, of that leg of each run, as an array."""
    srun = ["srun", "--kill-on-bad-exit=1", "--wait=60"]
    if config.cpus_per_task:
        srun.append(f"--cpus-per-task={config.cpus_per_task}")
    if config.container_image:
        srun += [f"--container-image={config.container_image}", "--no-container-mount-home"]
        srun.append(f"--container-workdir={Path.cwd()}")
        srun += [f"--container-mounts={','.join(config.container_mounts)}"] if config.container_mounts else []
    command = f'{shlex.join([*srun, _python(config), "-m", "nemotron4_train.cli"])} "$RUN" {leg}'
    resources = [f"--nodes={topology.num_nodes}", f"--ntasks-per-node={topology.num_ranks_per_node}"]
    if topology.device is Device.cuda:
        resources.append(f"--gpus-per-node={topology.num_ranks_per_node}")
    return _render(config, resources, run, name, command, leg, _MEETING)


def afterwards_script(config: LauncherConfig, device: Device, run: Path, commands: Sequence[Sequence[str]]) -> str:
    """The script of the commands that follow a run, one after the other on one node with one device."""
    resources = ["--nodes=1", "--ntasks=1", *(["--gpus-per-node=1"] if device is Device.cuda else [])]
    return _render(config, resources, run, "afterwards", " &&\n".join(map(shlex.join, commands)), None)


def _render(
    config: LauncherConfig,
    resources: Sequence[str],
    run: Path | Sequence[Path],
    name: str,
    command: str,
    leg: int | None,
    environment: Sequence[str] = (),
) -> str:
    root = run if isinstance(run, Path) else run[0].parent
    options = [
        f"--job-name=nemotron4-{name}",
        f"--comment={comment_of(root)}",
        f"--chdir={Path.cwd()}",
        *_placement(config),
        *resources,
        f"--signal=USR1@{config.signal_lead_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={_log_pattern(run, root)}",
        *config.sbatch_options,
    ]
    text = files("nemotron4_train.launchers").joinpath("slurm/job.sbatch").read_text(encoding="utf-8")
    values = {
        "directives": "\n".join(f"#SBATCH {_quoted(option)}" for option in options),
        "environment": "\n".join((*_exports(config), *environment)),
        "setup": "\n".join(config.setup),
        "run": _run_line(run),
        "attempt": shlex.join([_python(config), "-m", "nemotron4_train.launching.slurm.attempt"])
        + ("" if leg is None else f" --leg={leg}"),
        "command": command,
    }
    filled = (_Template(line).substitute(values) for line in text.splitlines())
    return "\n".join(line for line in filled if line) + "\n"


def _placement(config: LauncherConfig) -> list[str]:
    """Options for where and how long a job runs."""
    named: Mapping[str, object] = {
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "time": config.wall_time_minutes,
        "cpus-per-task": config.cpus_per_task,
        "mem": config.memory_per_node,
        "constraint": config.constraint,
        "exclude": ",".join(config.exclude) or None,
    }
    given = [f"--{option}={value}" for option, value in named.items() if value is not None]
    return [*given, *(["--exclusive"] if config.exclusive else [])]


def _exports(config: LauncherConfig) -> list[str]:
    threads = config.num_threads or config.cpus_per_task
    ours = {"PYTHONUNBUFFERED": "1"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    return [f"export {name}={shlex.quote(value)}" for name, value in (ours | config.environment).items()]


def _run_line(run: Path | Sequence[Path]) -> str:
    if isinstance(run, Path):
        return f"RUN={shlex.quote(str(run.resolve()))}"
    directories = " ".join(shlex.quote(str(path.resolve())) for path in run)
    return f"RUNS=({directories})\nRUN=${{RUNS[$SLURM_ARRAY_TASK_ID]}}"


def _log_pattern(run: Path | Sequence[Path], root: Path) -> Path:
    """One file per job, across its restarts; in a path, sbatch reads %% as %."""
    logs = Path(str((root / "slurm").resolve()).replace("%", "%%"))
    return logs / ("%j.log" if isinstance(run, Path) else "%A_%a.log")


def _quoted(option: str) -> str:
    """An option as an #SBATCH line needs it: sbatch splits such lines like a shell."""
    return shlex.quote(option) if any(character.isspace() or character in "'\"#" for character in option) else option


def _python(config: LauncherConfig) -> str:
    return config.python or sys.executable
