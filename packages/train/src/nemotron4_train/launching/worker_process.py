"""What a worker sets up before anything else: rank, that it dies with its launcher, its compiler cache, the allocator.

Invariant: no rank outlives its launcher, so the holder of a run's lock is the only one that writes to it; no rank reads
code that another compiled. (Attention of an early model, compiled under tensor parallelism and read by both ranks from
one warm Inductor cache, gave wrong gradients with torch 2.13; one directory per rank fixed it. With today's blocks
that did not happen again: torch 2.11 takes their graphs from a shared cache, with right gradients, and torch 2.13 finds
none of them there. But 2.13 leaves out of the key what a DeviceMesh holds, which differs on each rank.)
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nemotron4_common.processes import die_with_parent
from nemotron4_train.cuda_settings import let_segments_grow
from nemotron4_train.launching.environment import LAUNCHER_PID, shown
from nemotron4_train.launching.slurm.rank import take_rank_from_slurm

_OF_THE_ONLY_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def settle() -> None:
    """Set it all up, from the launcher's environment variables. Raises ValueError when they give no valid rank."""
    die_with_launcher()
    take_rank_from_slurm()
    check_rank()
    own_compiler_cache()
    let_segments_grow()


def refuse_rank_of_several() -> None:
    """Raise ValueError when the environment makes this process one of several ranks: it starts its ranks itself."""
    found = {name: os.environ.get(name, alone) for name, alone in _OF_THE_ONLY_RANK.items()}
    wrong = {name: value for name, value in found.items() if value != _OF_THE_ONLY_RANK[name]}
    if wrong:
        raise ValueError(
            f"{shown(wrong)}: the environment says that a launcher made this process one of several ranks, but"
            f" `nemotron4 train` starts its ranks itself; unset {' '.join(wrong)}, or have that launcher start"
            " `python -m nemotron4_train.cli RUN_DIR` (launcher.dry_run=true shows how)"
        )


def check_rank() -> None:
    """Raise ValueError unless the environment gives this worker's rank, and the address where the ranks meet."""
    found = {name: os.environ.get(name, _OF_THE_ONLY_RANK[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    whole = all(value.isdecimal() for value in found.values())
    if not whole or not int(found["LOCAL_RANK"]) <= int(found["RANK"]) < int(found["WORLD_SIZE"]):
        raise ValueError(f"{shown(found)}: not a rank of a run; start workers with torchrun or srun, which set them")
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if int(found["WORLD_SIZE"]) > 1 else ()
    if missing := [name for name in needed if name not in os.environ]:
        raise ValueError(
            f"{', '.join(missing)} (unset): needed with WORLD_SIZE={found['WORLD_SIZE']};"
            " start workers with torchrun or srun, which set them"
        )


def die_with_launcher() -> None:
    """Die when the launcher does; SystemExit when it is dead already."""
    die_with_parent(int(os.environ.get(LAUNCHER_PID, os.getppid())), "the launcher of this worker is gone")


def own_compiler_cache() -> None:
    """Give this rank, unless it is the only one, its own directory below TORCHINDUCTOR_CACHE_DIR or our default."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    shared = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{tempfile.gettempdir()}/nemotron4_inductor_{os.getuid()}"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(shared) / f"rank-{os.environ['RANK']}")
