"""Programs of tools/bench run in forks, which need not import torch again; so do the contestants that they start.

Invariant: a program sees what it would see in a process of its own: its arguments, its standard streams, `__main__`.
Contestants are forked before torch has threads, because toy runs have one thread.
"""

import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from forks import FORKS

BENCH = Path(__file__).parents[2] / "tools" / "bench"


def status_of_fork(command: Sequence[str], log, minutes: float) -> int:
    """In the place of `suite._status`: run a program of tools/bench, given as `python PROGRAM WORD...`."""
    process = FORKS.Process(target=_run_with_log, args=(list(command[1:]), log.name))
    process.start()
    try:
        process.join()
    finally:  # pytest limits the time of a test
        process.kill()
    return process.exitcode


def _run_with_log(words: list[str], log: str) -> None:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(BENCH))
    import contestants
    import inputs

    contestants.start, inputs.nemotron4 = Fork, _verb
    _run(words)


def _run(words: list[str]) -> None:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _verb(*words: str) -> None:
    """In the place of `inputs.nemotron4`: a fork becomes `nemotron4 WORD...`, and speaks to the log."""
    pid = os.fork()
    if pid == 0:
        _exit_after(_be_verb, words)
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise subprocess.CalledProcessError(status, ("nemotron4", *words))


def _be_verb(words: Sequence[str]) -> None:
    from nemotron4_config import main

    os.chdir(BENCH.parents[1])
    sys.argv = ["nemotron4", *words]
    sys.modules["__main__"] = main  # which the processes that it spawns import
    sys.exit(main.main())


def _exit_after(be: Callable[..., None], *arguments: object) -> NoReturn:
    """A fork does one thing and ends; it must not go on as the program that it was forked from."""
    status = 1
    try:
        be(*arguments)
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except BaseException:  # as Python does at the end of a program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


_OPEN: list = []  # this side of every fork's pipes, which other forks must not hold open


class Fork:
    """As much of a `subprocess.Popen` as `contestants.Contestant` uses."""

    def __init__(self, program: Path, *words: str) -> None:
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            for end in (ours_in, ours_out, *(file.fileno() for file in _OPEN)):
                os.close(end)
            sys.stdin, sys.stdout = os.fdopen(theirs_in), os.fdopen(theirs_out, "w")
            _exit_after(_run, [str(program), *words])
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_out, "w"), os.fdopen(ours_in)
        _OPEN.extend((self.stdin, self.stdout))

    def communicate(self) -> None:
        """End it."""
        _OPEN.remove(self.stdin)
        _OPEN.remove(self.stdout)
        self.stdin.close()
        self.stdout.close()
        os.waitpid(self._pid, 0)
