"""`nemotron4 train` in a process of its own that a test may kill, and what it has left behind."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemReader, state_dict_loader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

ARITHMETIC = ("step", "tokens", "loss", "lr", "global_batch_size", "phase", "grad_norm")


def start_training(*arguments: str, cwd: Path) -> subprocess.Popen:
    """Start the command line and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "nemotron4_config.main", "train", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, limit_seconds: float = 1_200) -> None:
    """Return as soon as the condition holds; AssertionError when the process ends before, or never comes to it."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert process.poll() is None, f"the run ended early with status {process.returncode}"
        assert time.monotonic() < deadline, f"not in {limit_seconds} seconds"
        time.sleep(0.001)


def metric_rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, in the columns that are a matter of arithmetic and not of speed."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: row[name] for name in ARITHMETIC} for row in csv.DictReader(file)]


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint of any topology, whole, by its full name."""
    reader = FileSystemReader(checkpoint)
    tensors = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in reader.read_metadata().state_dict_metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }
    state_dict_loader.load(tensors, storage_reader=reader, no_dist=True)
    return tensors
