"""Sharded checkpoints that are complete or absent, readable on any topology: their content, and reading it.

checkpoints/step-00000500/ holds torch's distributed checkpoint (two files per rank: the model's weights; optimiser
state and, by rank, the state of the random number generators; all as tensors under their full names. Older ones have
one file for both), state.json (step, tokens, phase, digest of the job, the model's configuration), the data ledger and
manifest.json with the digest of every file, written last. writing.py writes them. Invariant: only tensors are stored,
so reading a checkpoint unpickles nothing but torch's own index of it, and only after checking its digest.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from nemotron4_common.staging import file_sha256
from nemotron4_data.ledger import FILE_NAME as LEDGER_FILE
from nemotron4_data.ledger import Ledger
from nemotron4_model import ModelConfig
from nemotron4_train.checkpoints.tensor_reader import TensorReader
from nemotron4_train.optimizers import allocate_states
from nemotron4_train.ranks import num_ranks, on_all_ranks, rank
from nemotron4_train.step_guard import GuardState

STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
WEIGHTS = "model."
"""What names of the model's tensors begin with in a checkpoint."""
INDEX_FILE = ".metadata"  # torch's
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """state.json; older ones lack some of its fields."""

    step: int
    """Optimiser steps before it."""
    tokens: int
    """Training tokens before it."""
    phase: str = ""
    """The phase of its last step."""
    job_digest: str | None = None
    """Digest of the job that wrote it (TrainJob.digest)."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's configuration, from `describe_model`."""
    guard: GuardState = field(default_factory=GuardState)
    started_from: Mapping[str, Any] | None = None
    """The model directory whose weights its run began with, as start_from.py records it."""

    def to_json(self) -> bytes:
        """The content of the file; `started_from` is in those of runs that have one."""
        content = asdict(self)
        if self.started_from is None:
            del content["started_from"]
        return (json.dumps(content, indent=1) + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointState):
    """A complete checkpoint: the content of its state.json, and its directory."""

    directory: Path

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read state.json. Raises ValueError when it or the ledger is damaged; reads nothing else."""
        _check_files(directory, _digests(directory), [STATE_FILE, LEDGER_FILE])
        stored = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        known = {each.name: stored[each.name] for each in fields(CheckpointState) if each.name in stored}
        if "guard" in known:
            known["guard"] = GuardState(**known["guard"])
        return cls(directory=directory, **known)

    @property
    def ledger(self) -> Ledger:
        """The text read before it. Raises ValueError when the ledger is missing or unreadable."""
        return Ledger.load(self.directory / LEDGER_FILE)

    def check_model(self, model: ModelConfig) -> None:
        """Raise ValueError, with the key that differs, when it belongs to another model."""
        wanted = describe_model(model)
        for name, stored in self.model.items():
            if name in wanted and stored != wanted[name]:
                raise ValueError(
                    f"model.{name} ({wanted[name]}): {self.directory} was trained with"
                    f" {stored}; choose that model, or another checkpoint"
                )


def checkpoint_directory(run_directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps lives."""
    return run_directory / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    root = run_directory / "checkpoints"
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name)) if root.is_dir() else []


def set_aside(run_directory: Path, resume: str, step: int) -> None:
    """Rename the run's checkpoints that do not lead up to the one that `resume` (never, or a path, at `step`) selects.

    Otherwise the next start of the run would resume from the newest of them.
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
    """Raise ValueError, with the option's `key`, unless the directory is a complete checkpoint."""
    if not (directory / MANIFEST_FILE).is_file():
        raise ValueError(f"{key} ({directory}): not a complete checkpoint (it has no manifest.json)")


def verify(directory: Path, *, weights_only: bool = False) -> Checkpoint:
    """Open a checkpoint after checking every file against the manifest; each rank checks its share of them.

    With `weights_only`, files are checked unless they hold only other tensors, as `read_parameters` needs. A collective
    over the ranks, if there are several. Raises ValueError, on all of them, naming what is damaged.
    """

    def check_part() -> Checkpoint:
        digests = _digests(directory)
        names = set(digests)
        if weights_only:
            _check_files(directory, digests, [INDEX_FILE])
            places = TensorReader(directory).read_metadata().storage_data
            names -= {info.relative_path for info in places.values()}
            names |= {info.relative_path for index, info in places.items() if index.fqn.startswith(WEIGHTS)}
        _check_files(directory, digests, sorted(names)[rank() :: num_ranks()])
        return Checkpoint.open(directory)

    return on_all_ranks(check_part)[0]


def peek(run_directory: Path, resume: str) -> Checkpoint | None:
    """What `find` will return, judged by the small files alone, so that it is cheap; does not warn of damage."""
    if resume == "never":
        return None
    if resume != "auto":
        return Checkpoint.open(Path(resume))
    for directory in reversed(list_checkpoints(run_directory)):
        with suppress(ValueError):
            return Checkpoint.open(directory)
    return None


def find(run_directory: Path, resume: str, key: str = "resume", *, weights_only: bool = False) -> Checkpoint | None:
    """The checkpoint that `resume` (auto, never, or a path) selects; auto skips damaged ones, as `verify` finds them.

    A collective over the ranks, if there are several. Raises ValueError, with the option's `key`, for an invalid path.
    """
    if resume == "never":
        return None
    if resume != "auto":
        check_complete(Path(resume), key)
        return verify(Path(resume), weights_only=weights_only)
    for directory in reversed(on_all_ranks(lambda: list_checkpoints(run_directory))[0]):
        try:
            return verify(directory, weights_only=weights_only)
        except ValueError as error:
            if rank() == 0:
                warnings.warn(f"skipped a checkpoint: {error}", stacklevel=2)
    return None


def describe_model(model: ModelConfig) -> dict[str, Any]:
    """What state.json records of the model: every setting that its weights were trained for.

    Not the initialisation, nor the maximum sequence length, which a later phase may change.
    """
    described = asdict(model) | {"head_dim": model.attention_head_dim}
    return {name: value for name, value in described.items() if name not in ("init_std", "max_sequence_length")}


def load(directory: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Load a model and its optimisers, sharded as they are now, and the random state from any topology's checkpoint.

    A collective over the ranks. Raises ValueError when the checkpoint belongs to another model or optimiser. A rank
    that the writing topology did not have keeps its random state.
    """
    reader = TensorReader(directory)
    allocate_states(optimizers)  # torch would fill them with zeros, and gradients too, and take a step
    model_state, optimizer_state = get_state_dict(model, optimizers)
    stored = reader.read_metadata().state_dict_metadata
    unknown = {name for name in stored if name.startswith(WEIGHTS)} - {WEIGHTS + name for name in model_state}
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
    reader = TensorReader(directory)
    for name, shape in shapes.items():
        tensor = torch.empty(shape)
        _read(reader, {"model": {name: tensor}}, no_dist=True)
        yield name, tensor
        del tensor


def random_state() -> dict[str, Tensor]:
    """State of this process's random generators by device: the CPU's, and its CUDA device's if it has used one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def rank_key() -> str:
    """This rank's name in a checkpoint."""
    return f"rank{rank():05d}"


def first_cause(error: CheckpointException) -> str:
    """The first failing rank's error, on one line."""
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return f"{type(cause).__name__}: {' '.join(str(cause).splitlines()[0].split())}"


def _read(reader: TensorReader, state: dict[str, Any], no_dist: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process is intended
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
