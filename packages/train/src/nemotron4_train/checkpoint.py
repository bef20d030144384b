"""Sharded checkpoints that are complete or absent, readable on any topology: what one holds, and reading it.

checkpoints/step-00000500/ holds torch's distributed checkpoint (one file a rank: model, optimiser state and, by rank,
the state of the random number generators, as tensors under their full names), state.json (step, tokens, phase, digest
of the job, the model's configuration), the data ledger and manifest.json with the digest of every file, written last.
checkpoint_writer.py writes them. Invariant: only tensors are stored, so reading a checkpoint unpickles nothing but
torch's own index of it, and that only after its digest was checked.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from nemotron4_data.ledger import FILE_NAME as LEDGER_FILE
from nemotron4_data.ledger import Ledger
from nemotron4_data.staging import file_sha256
from nemotron4_model import ModelConfig

STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{8})")
_T = TypeVar("_T")


def checkpoint_directory(run_directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lives."""
    return run_directory / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    root = run_directory / "checkpoints"
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name)) if root.is_dir() else []


def set_aside(run_directory: Path, resume: str, step: int) -> None:
    """Rename the run's checkpoints that are none of what `resume` (never, or a path, at that step) goes on from.

    Else whatever starts the run again would go on from the newest of them.
    """
    own = resume != "never" and Path(resume).resolve().parent.parent == run_directory.resolve()
    for path in list_checkpoints(run_directory):
        if not own or step_of(path) > step:
            path.rename(path.with_name(f"aside-{datetime.now():%Y%m%d%H%M%S}-{path.name}"))


def step_of(directory: Path) -> int:
    """Optimiser steps before the checkpoint, by its name."""
    match = _NAME.fullmatch(directory.name)
    assert match is not None
    return int(match[1])


def check_complete(directory: Path, key: str = "resume") -> None:
    """Raise ValueError, with the option's `key`, unless the directory is a checkpoint written to its end."""
    if not (directory / MANIFEST_FILE).is_file():
        raise ValueError(f"{key} ({directory}): not a complete checkpoint (it has no manifest.json)")


def read_state(directory: Path) -> dict[str, Any]:
    """state.json. Raises ValueError when it or the ledger is damaged; reads nothing else."""
    digests = _digests(directory)
    _check_files(directory, digests, [STATE_FILE, LEDGER_FILE])
    state: dict[str, Any] = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    return state


def verify(directory: Path) -> dict[str, Any]:
    """Check every file against the manifest, each rank its part of them; returns state.json.

    A collective over the ranks, where there are several. Raises ValueError, on all of them, saying what is damaged.
    """

    def check_part() -> dict[str, Any]:
        digests = _digests(directory)
        _check_files(directory, digests, sorted(digests)[rank() :: num_ranks()])
        return read_state(directory)

    return on_all_ranks(check_part)[0]


def ledger(directory: Path) -> Ledger:
    """The data ledger of a checkpoint. ValueError when it is missing or unreadable."""
    return Ledger.load(directory / LEDGER_FILE)


def peek(run_directory: Path, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """What `find` will give, judged by the small files alone, so that it costs nothing; says nothing of damage."""
    if resume == "never":
        return None
    if resume != "auto":
        return Path(resume), read_state(Path(resume))
    for directory in reversed(list_checkpoints(run_directory)):
        with suppress(ValueError):
            return directory, read_state(directory)
    return None


def find(run_directory: Path, resume: str, key: str = "resume") -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that `resume` (auto, never, or a path) asks for and its state; a damaged one is passed over.

    A collective over the ranks, where there are several. ValueError, with the option's `key`, for a path that is none.
    """
    if resume == "never":
        return None
    if resume != "auto":
        check_complete(Path(resume), key)
        return Path(resume), verify(Path(resume))
    for directory in reversed(on_all_ranks(lambda: list_checkpoints(run_directory))[0]):
        try:
            return directory, verify(directory)
        except ValueError as error:
            if rank() == 0:
                warnings.warn(f"skipped a checkpoint: {error}", stacklevel=2)
    return None


def describe_model(model: ModelConfig) -> dict[str, Any]:
    """What state.json says of the model: all that its weights are made for.

    Not how they were first drawn, nor how long sequences may get, which a later phase may change.
    """
    described = asdict(model) | {"head_dim": model.attention_head_dim}
    return {name: value for name, value in described.items() if name not in ("init_std", "max_sequence_length")}


def check_model(directory: Path, state: Mapping[str, Any], model: ModelConfig) -> None:
    """Raise ValueError, with the key that differs, when `state` of the checkpoint is of another model."""
    wanted = describe_model(model)
    for name, stored in state.get("model", {}).items():  # an older checkpoint does not say
        if name in wanted and stored != wanted[name]:
            raise ValueError(
                f"model.{name} ({wanted[name]}): {directory} does not fit this model, it was trained with {stored}: "
                "choose that model, or another checkpoint"
            )


def load(directory: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Fill a model and its optimisers, sharded as they are now, and the random state, from any topology's checkpoint.

    A collective over the ranks. Raises ValueError when the checkpoint is of another model or optimiser. A rank that
    the writing topology did not have keeps its random state.
    """
    reader = _Reader(directory)
    model_state, optimizer_state = get_state_dict(model, optimizers)
    stored = reader.read_metadata().state_dict_metadata
    unknown = {name for name in stored if name.startswith("model.")} - {f"model.{name}" for name in model_state}
    if unknown:
        raise ValueError(f"{directory}: does not fit this model (which has no {min(unknown).removeprefix('model.')})")
    found = {device: tensor for device, tensor in random_state().items() if f"rng.{rank_key()}.{device}" in stored}
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state["state"]}
    if found:
        state["rng"] = {rank_key(): found}
    _read(reader, state, no_dist=not dist.is_initialized())
    set_state_dict(model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state)
    if "cpu" in found:
        torch.set_rng_state(found["cpu"])
    if "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"])


def read_parameters(directory: Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """(name, whole fp32 tensor) of the model's parameters, one in memory at a time, in one process.

    Raises ValueError when a parameter is missing or of another shape.
    """
    reader = _Reader(directory)
    for name, shape in shapes.items():
        tensor = torch.empty(shape)
        _read(reader, {"model": {name: tensor}}, no_dist=True)
        yield name, tensor
        del tensor


def random_state() -> dict[str, Tensor]:
    """State of this process's generators by device: one of the CPU, one of its CUDA device if it has used one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def rank_key() -> str:
    """What a checkpoint calls this rank."""
    return f"rank{rank():05d}"


def on_all_ranks(work: Callable[[], _T], group: dist.ProcessGroup | None = None) -> list[_T]:
    """What `work` gave on every rank of the group, by rank; an error of any rank is raised on all alike."""
    outcome: _T | Exception
    try:
        outcome = work()
    except Exception as error:  # raised below, on all ranks
        outcome = error
    outcomes: list[Any] = [outcome]
    if dist.is_initialized():
        outcomes = [None] * dist.get_world_size(group)
        dist.all_gather_object(outcomes, outcome, group=group)
    for found in outcomes:
        if isinstance(found, Exception):
            raise found
    return outcomes


def first_cause(error: CheckpointException) -> str:
    """The first failing rank's error, on one line."""
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return f"{type(cause).__name__}: {' '.join(str(cause).splitlines()[0].split())}"


def rank() -> int:
    """This process among the ranks; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Processes of the run; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _Reader(FileSystemReader):
    """Reads the index once, however many times tensors are asked for: that of a large model takes seconds."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata


def _read(reader: _Reader, state: dict[str, Any], no_dist: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is what is meant
            state_dict_loader.load(state, storage_reader=reader, no_dist=no_dist)
    except CheckpointException as error:
        raise ValueError(f"{reader.path}: does not fit this model or its optimiser ({first_cause(error)})") from error


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 by file name."""
    check_complete(directory)
    try:
        manifest = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory / MANIFEST_FILE}: damaged ({type(error).__name__}: {error})") from error


def _check_files(directory: Path, digests: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        file = directory / name
        if name not in digests or not file.is_file():
            raise ValueError(f"{file}: missing from the checkpoint")
        if (found := file_sha256(file)) != digests[name]:
            raise ValueError(f"{file}: damaged (sha256 {found[:12]}, manifest says {digests[name][:12]})")
