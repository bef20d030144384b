"""The command line in a process of its own, forked where torch and Lightning are imported already.

Tests of kills and signals start a new interpreter instead, as a user does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from forks import FORKS

LIMIT_SECONDS = 1_200


def nemotron4(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end; AssertionError with all it said if `check` and its status is not 0."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    with TemporaryDirectory() as directory:
        said = [Path(directory, name) for name in ("stdout", "stderr")]
        process = FORKS.Process(target=_run, args=(arguments, cwd, environment, said))
        process.start()
        process.join(LIMIT_SECONDS)
        if process.exitcode is None:
            process.kill()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in said)
    done = subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)
    if check and done.returncode != 0:
        raise AssertionError(f"nemotron4 {' '.join(arguments)} exited {done.returncode}:\n{stdout}\n{stderr}")
    return done


def _run(arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], said: list[Path]) -> None:
    """The forked process: become `nemotron4 ARGUMENTS` and exit with its status."""
    for descriptor, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    from nemotron4_config import main

    sys.argv = ["nemotron4", *arguments]
    sys.modules["__main__"] = main  # which the processes that it spawns import, as they would for `nemotron4`
    torch.set_num_threads(1)
    sys.exit(main.main())
