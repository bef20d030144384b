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
from collections.abc import Mapping
from pathlib import Path

LAUNCHER_PID = "NEMOTRON4_LAUNCHER_PID"
_OF_THE_ONLY_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
_OF_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "GROUP_RANK": "SLURM_NODEID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
}
"""What torchrun tells a worker, and where Slurm says the same."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def settle() -> None:
    """All of it, by what the launcher left in the environment. Raises ValueError when that is no rank."""
    die_with_launcher()
    take_rank_from_slurm()
    check_rank()
    own_compiler_cache()


def refuse_rank_of_several() -> None:
    """Raise ValueError when the environment calls this process one of several ranks, which it starts itself."""
    found = {name: os.environ.get(name, alone) for name, alone in _OF_THE_ONLY_RANK.items()}
    wrong = {name: value for name, value in found.items() if value != _OF_THE_ONLY_RANK[name]}
    if wrong:
        raise ValueError(
            f"{_shown(wrong)}: the environment says that a launcher made this process one of several ranks, but"
            f" `nemotron4 train` starts its ranks itself; unset {' '.join(wrong)}, or have that launcher start"
            " `python -m nemotron4_train.cli RUN_DIR` (launcher.dry_run=true says how)"
        )


def check_rank() -> None:
    """Raise ValueError unless the launcher has told this worker its place among the ranks, and where they meet."""
    found = {name: os.environ.get(name, _OF_THE_ONLY_RANK[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    whole = all(value.isdecimal() for value in found.values())
    if not whole or not int(found["LOCAL_RANK"]) <= int(found["RANK"]) < int(found["WORLD_SIZE"]):
        raise ValueError(f"{_shown(found)}: no rank of a run; start workers with torchrun or srun, which set them")
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if int(found["WORLD_SIZE"]) > 1 else ()
    if missing := [name for name in needed if name not in os.environ]:
        raise ValueError(
            f"{', '.join(missing)} (unset): needed with WORLD_SIZE={found['WORLD_SIZE']};"
            " start workers with torchrun or srun, which set them"
        )


def _shown(variables: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({value})" for name, value in variables.items())


def take_rank_from_slurm() -> None:
    """Under srun, set what torchrun would have set: rank, number of ranks, and where they meet.

    Raises ValueError when the shell that srun was called from has left others there.
    """
    by_torch = {LAUNCHER_PID, "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if by_torch or "SLURM_STEP_NUM_TASKS" not in os.environ:
        return
    of_slurm = {name: os.environ[theirs] for name, theirs in _OF_SLURM.items()}
    if "RANK" in os.environ and of_slurm["WORLD_SIZE"] == "1":
        return  # made by some launcher inside of one task
    inherited = {name: os.environ[name] for name, value in of_slurm.items() if os.environ.get(name, value) != value}
    if inherited:
        raise ValueError(
            f"{_shown(inherited)}: the environment that srun was called in says so, but Slurm started rank"
            f" {of_slurm['RANK']} of {of_slurm['WORLD_SIZE']}; unset {' '.join(inherited)} before srun"
        )
    os.environ.update(of_slurm)
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
