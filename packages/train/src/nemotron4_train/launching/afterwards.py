"""The commands that follow a complete run: composed and checked before it starts, run when it is complete."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from nemotron4_train.job import TrainJob
from nemotron4_train.launching.legs import commands_afterwards


def check_afterwards(job: TrainJob) -> None:
    """Raise ValueError, with the line and its error, unless each is a valid command line of `nemotron4`.

    The jobs of a sweep (-m) are not composed, so not checked.
    """
    for line in job.afterwards:
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ValueError(f"afterwards ({line}): {error}; quote it as in a shell") from error
        if not words or words[0].startswith("-"):
            raise ValueError(f"afterwards ({line}): names no verb; give a command line such as export run={{run}}")
    started = []
    for line, (python, _, _, *words) in zip(
        job.afterwards, commands_afterwards(job, _some_directory(job)), strict=True
    ):
        if {"-m", "--multirun"}.isdisjoint(words):
            command = [python, "-m", "nemotron4_config.check", *words]
            started.append((line, subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_environment())))
    wrong = []
    for line, process in started:
        said = process.communicate()[1].strip().splitlines()
        if process.returncode:
            wrong.append(f"afterwards ({line}): {said[-1] if said else f'status {process.returncode}'}")
    if wrong:
        raise ValueError("; ".join(wrong))


def run_afterwards(job: TrainJob, directory: Path) -> None:
    """Run the commands, one after the other. Raises ValueError when one fails."""
    for command in commands_afterwards(job, directory):
        if status := subprocess.run(command, check=False, env=_environment()).returncode:
            raise ValueError(
                f"afterwards ({shlex.join(command[3:])}): exited with status {status}; the run is complete:"
                f" run its afterwards again with run.dir={directory}"
            )


def _some_directory(job: TrainJob) -> Path:
    """The path used for {run} before the run has a directory."""
    return Path(job.run.dir or f"{job.run.root}/{job.run.name}/latest")


def _environment() -> dict[str, str]:
    """Without HYDRA_FULL_ERROR, which our command line sets for itself: it would make errors end in tracebacks."""
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
