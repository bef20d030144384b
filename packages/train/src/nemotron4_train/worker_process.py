"""What a worker settles before anything else: it dies with what started it, and has a compiler cache of its own.

Invariant: no rank outlives its launcher, so whoever holds a run's lock is the only one that writes in it; no rank reads
what another one compiled. (Attention compiled under tensor parallelism, read by both ranks from one warm Inductor
cache, gave wrong gradients with torch 2.13; a directory a rank cured it.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path

LAUNCHER_PID = "NEMOTRON4_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1  # prctl(2)


def settle() -> None:
    """Both of the above, by what the launcher left in the environment."""
    die_with_launcher()
    own_compiler_cache()


def die_with_launcher() -> None:
    """Ask Linux to kill this process when its parent dies; SystemExit when our launcher is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(LAUNCHER_PID, str(os.getppid())) != str(os.getppid()):
        raise SystemExit("the launcher of this worker is gone")


def own_compiler_cache() -> None:
    """Give this rank, unless it is the only one, its own directory below TORCHINDUCTOR_CACHE_DIR or below ours."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    shared = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/nemotron4_inductor_{os.getuid()}"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(shared) / f"rank-{os.environ['RANK']}")
