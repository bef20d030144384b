"""What a worker settles before anything else: its rank, that it dies with its launcher, and its own compiler cache.

Invariant: no rank outlives its launcher, so whoever holds a run's lock is the only one that writes in it; no rank reads
what another one compiled. (Attention compiled under tensor parallelism, read by both ranks from one warm Inductor
cache, gave wrong gradients with torch 2.13; a directory a rank cured it.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER_PID = "NEMOTRON4_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1  # prctl(2)


def settle() -> None:
    """All of it, by what the launcher left in the environment."""
    take_rank_from_slurm()
    die_with_launcher()
    own_compiler_cache()


def take_rank_from_slurm() -> None:
    """Under srun, set what torchrun would have set: rank, number of ranks, and where they meet."""
    if "RANK" in os.environ or "SLURM_STEP_NUM_TASKS" not in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["GROUP_RANK"] = os.environ["SLURM_NODEID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
    if "MASTER_ADDR" not in os.environ:  # srun by hand: our batch script sets both
        nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        os.environ["MASTER_ADDR"] = subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 12_000))


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
