"""What one rank of test_start_from.py does; its own file so that spawned processes can import it."""

import warnings
from pathlib import Path
from typing import Any

from nemotron4_train.lightning.fit import fit
from nemotron4_train.stop_signal import StopSignal


def fit_all(rank: int, world_size: int, runs: list[tuple[Any, Path]]) -> list[int]:
    """Run jobs in their directories, one after the other; returns the steps of each."""
    warnings.simplefilter("ignore")
    steps = []
    for job, directory in runs:
        with StopSignal() as stop:
            steps.append(fit(job, directory, stop).step)
    return steps
