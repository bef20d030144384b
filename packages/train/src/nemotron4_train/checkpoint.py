"""Sharded checkpoints that are complete or absent, readable on any topology.

checkpoints/step-00000500/ holds torch's distributed checkpoint (one file a rank, tensors under their full names), a
state.json (step, tokens), the data ledger and manifest.json with the digest of every file, written last. The
directory is built under a temporary name, fsynced and renamed by rank 0 when every rank has written, so a kill at any
moment leaves the previous checkpoint whole. Only tensors are stored: data order needs no state but the step.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from nemotron4_data.ledger import FILE_NAME as LEDGER_FILE
from nemotron4_data.ledger import Ledger
from nemotron4_data.staging import commit_directory, file_sha256, partial_path, write_file

_NAME = re.compile(r"step-(\d{8})")


def checkpoint_directory(run_directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lives."""
    return run_directory / "checkpoints" / f"step-{step:08d}"


def save(
    run_directory: Path,
    step: int,
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    ledger: bytes,
    keep: int,
) -> Path:
    """Write the checkpoint of `step`; a collective over all ranks. Raises OSError, keeping the older ones."""
    directory = checkpoint_directory(run_directory, step)
    staged = partial_path(directory)
    if _rank() == 0:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
    _barrier()
    model_state, optimizer_state = get_state_dict(model, optimizers)
    try:
        state_dict_saver.save(
            {"model": model_state, "optimizer": optimizer_state["state"]},
            storage_writer=FileSystemWriter(staged),
            no_dist=not dist.is_initialized(),
        )
    except CheckpointException as error:
        raise OSError(
            f"{directory}: could not be written ({_first_cause(error)}); older checkpoints are kept:"
            " make room and run the same command again"
        ) from error
    _barrier()
    if _rank() == 0:
        write_file(staged / "state.json", (json.dumps({"step": step, **state}, indent=1) + "\n").encode())
        write_file(staged / LEDGER_FILE, ledger)
        digests = {file.name: file_sha256(file) for file in sorted(staged.iterdir())}
        write_file(staged / "manifest.json", (json.dumps({"sha256": digests}, indent=1) + "\n").encode())
        commit_directory(directory)
        for old in list_checkpoints(run_directory)[:-keep]:
            shutil.rmtree(old)
    _barrier()
    return directory


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    root = run_directory / "checkpoints"
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name)) if root.is_dir() else []


def check_complete(directory: Path) -> None:
    """Raise ValueError unless the directory is a checkpoint that was written to its end."""
    if not (directory / "manifest.json").is_file():
        raise ValueError(f"resume ({directory}): not a complete checkpoint (it has no manifest.json)")


def verify(directory: Path) -> dict[str, Any]:
    """Check every file against the manifest; returns state.json. Raises ValueError saying what is damaged."""
    check_complete(directory)
    for name, digest in json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["sha256"].items():
        file = directory / name
        if not file.is_file():
            raise ValueError(f"{file}: missing from the checkpoint")
        if (found := file_sha256(file)) != digest:
            raise ValueError(f"{file}: damaged (sha256 {found[:12]}, manifest says {digest[:12]})")
    loaded: dict[str, Any] = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    return loaded


def ledger(directory: Path) -> Ledger:
    """The data ledger of a checkpoint. ValueError when it is missing or unreadable."""
    return Ledger.load(directory / LEDGER_FILE)


def find(run_directory: Path, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that `resume` (auto, never, or a path) asks for and its state; a damaged one is passed over."""
    if resume == "never":
        return None
    if resume != "auto":
        if not Path(resume).is_dir():
            raise ValueError(f"resume ({resume}): no such checkpoint directory; use auto, never, or an existing path")
        return Path(resume), verify(Path(resume))
    for directory in reversed(list_checkpoints(run_directory)):
        try:
            return directory, verify(directory)
        except ValueError as error:
            warnings.warn(f"skipped a checkpoint: {error}", stacklevel=2)
    return None


def load(directory: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Fill a model and its optimisers, sharded as they are now, from a checkpoint of any topology."""
    model_state, optimizer_state = get_state_dict(model, optimizers)
    state = {"model": model_state, "optimizer": optimizer_state["state"]}
    _read(
        directory,
        lambda reader: state_dict_loader.load(state, storage_reader=reader, no_dist=not dist.is_initialized()),
    )
    set_state_dict(model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state)


def load_model(directory: Path, model: torch.nn.Module) -> None:
    """Fill an unsharded model's parameters in place from a checkpoint of any topology (one process)."""
    state = {"model": model.state_dict()}
    _read(directory, lambda reader: state_dict_loader.load(state, storage_reader=reader, no_dist=True))


def _read(directory: Path, load_state: Callable[[FileSystemReader], None]) -> None:
    try:
        load_state(FileSystemReader(directory))
    except CheckpointException as error:
        raise ValueError(f"{directory}: does not fit this model ({_first_cause(error)})") from error


def _first_cause(error: CheckpointException) -> str:
    """The first rank's error, on one line."""
    cause = next(iter(error.failures.values()))[0]
    return f"{type(cause).__name__}: {' '.join(str(cause).splitlines()[0].split())}"


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
