"""A worker's rank when srun started it."""

from __future__ import annotations

import os
import subprocess

from nemotron4_train.launching.environment import LAUNCHER_PID, shown

_OF_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "GROUP_RANK": "SLURM_NODEID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
}
"""The variables that torchrun sets for a worker, and Slurm's variables for the same."""


def take_rank_from_slurm() -> None:
    """Under srun, set what torchrun would have set: rank, number of ranks, and where they meet.

    Raises ValueError when the shell that called srun had set them to other values.
    """
    by_torch = {LAUNCHER_PID, "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if by_torch or "SLURM_STEP_NUM_TASKS" not in os.environ:
        return
    of_slurm = {name: os.environ[theirs] for name, theirs in _OF_SLURM.items()}
    if "RANK" in os.environ and of_slurm["WORLD_SIZE"] == "1":
        return  # set by a launcher inside a single task
    inherited = {name: os.environ[name] for name, value in of_slurm.items() if os.environ.get(name, value) != value}
    if inherited:
        raise ValueError(
            f"{shown(inherited)}: set in the environment that srun was called in, but Slurm started rank"
            f" {of_slurm['RANK']} of {of_slurm['WORLD_SIZE']}; unset {' '.join(inherited)} before srun"
        )
    os.environ.update(of_slurm)
    if "MASTER_ADDR" not in os.environ:  # srun by hand: our batch script sets both
        nodes = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        os.environ["MASTER_ADDR"] = subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 12_000))
