"""Writing checkpoints while training continues.

A save copies the state to host memory, which training waits for, and writes the copy in its own thread: a staged
directory, torch's distributed checkpoint (synced, and hashed on its way to the file), manifest.json last, all synced
and renamed by rank 0 when every rank has written. Invariants: a kill at any moment leaves the older checkpoints intact;
at most one save is in progress, so host memory holds at most one copy (the next save reuses its buffers); the ranks'
threads communicate over their own process group, so they cannot interfere with the collectives of training; a thread
uses no device but its rank's, and reads from it only with copies that wait.

Source of the idea: asynchronous checkpointing in torch.distributed.checkpoint (`async_save`), whose stager of tensors
is used here, held by us as torch 2.11's `DefaultStager` serves one save only; its thread ends with the write, ours
with the commit.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX, FileSystem, FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.utils.serialization import config as serialization_config

from nemotron4_common.ownership import first_foreign
from nemotron4_common.staging import commit_directory, file_sha256, partial_path
from nemotron4_common.system_errors import system_error
from nemotron4_data.ledger import FILE_NAME as LEDGER_FILE
from nemotron4_train.checkpoints.reading import (
    INDEX_FILE,
    MANIFEST_FILE,
    STATE_FILE,
    WEIGHTS,
    CheckpointState,
    checkpoint_directory,
    first_cause,
    list_checkpoints,
    random_state,
    rank_key,
    step_of,
)
from nemotron4_train.ranks import on_all_ranks, rank

_FILES = re.compile(rf"__\d+_\d+\.distcp|\.metadata(\.tmp)?|({STATE_FILE}|{LEDGER_FILE}|{MANIFEST_FILE})|\..*\.partial")
"""Files of a checkpoint, complete or partly written: a checkpoint that contains any other is never removed."""


_MIN_PINNED_BYTES = 1 << 16
"""Pinning is done by whole pages and takes its time, so smaller tensors are copied without."""


@dataclass(frozen=True)
class _Save:
    step: int
    device: torch.device
    tensors: dict[str, Any]
    files: dict[str, bytes]
    """state.json and the ledger."""


class CheckpointWriter:
    """Writes the checkpoints of one run, one at a time; every rank has a writer and calls it at the same steps."""

    def __init__(
        self,
        run_directory: Path,
        *,
        keep: int,
        keep_steps: Collection[int] = (),
        asynchronous: bool = True,
        on_commit: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Keep the `keep` newest and those at `keep_steps`; `on_commit` is called between steps with each saved step.

        A collective over the ranks. A save that is not asynchronous makes no copy and is complete when it returns.
        """
        self._run_directory = run_directory
        self._keep = keep
        self._keep_steps = frozenset(keep_steps)
        self._asynchronous = asynchronous
        self._on_commit = on_commit
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._stager: StateDictStager | None = None
        self._in_progress: tuple[int, Future[None]] | None = None

    def save(
        self,
        state: CheckpointState,
        model: torch.nn.Module,
        optimizers: list[torch.optim.Optimizer],
        ledger: bytes,
    ) -> None:
        """Save the state after `state.step`; when this returns, training may change it. Waits for the previous save.

        A collective over the ranks. Raises OSError if the previous save failed, or this one if it is not asynchronous.
        """
        self.wait()
        model_state, optimizer_state = get_state_dict(model, optimizers)
        tensors = {"model": model_state, "optimizer": optimizer_state["state"], "rng": {rank_key(): random_state()}}
        device = next(model.parameters()).device
        if self._asynchronous:
            tensors = self._stage(tensors, device)
        torch.get_device_module(device).synchronize(device)
        save = _Save(state.step, device, tensors, {STATE_FILE: state.to_json(), LEDGER_FILE: ledger})
        self._in_progress = state.step, self._thread.submit(self._write, save)
        if not self._asynchronous:
            self.wait()

    def is_writing(self) -> bool:
        """Whether this rank is still writing. Between steps, ranks agree on it, and call `wait` once none is."""
        return self._in_progress is not None and not self._in_progress[1].done()

    def wait(self) -> None:
        """Wait until no save is in progress; every rank calls this at the same step.

        Raises OSError, on all ranks, when it could not be written; the older checkpoints are kept.
        """
        if self._in_progress is not None:
            (step, future), self._in_progress = self._in_progress, None
            future.result()
            self._on_commit(step)

    def close(self) -> None:
        """Wait, then release the thread and the staging buffers."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._stager is not None:
                self._stager.close()

    def _stage(self, tensors: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """A copy in host memory (pinned for a CUDA device), complete when `device` has been synchronised."""
        if self._stager is None:
            self._stager = StateDictStager(pin_memory=device.type == "cuda", pin_memory_min_bytes=_MIN_PINNED_BYTES)
        staged = self._stager.stage(tensors, non_blocking=device.type != "cpu")
        assert isinstance(staged, dict)
        return staged

    def _write(self, save: _Save) -> None:
        """Write the staged directory and rename it, in the thread."""
        torch.get_device_module(save.device).set_device(save.device)  # a new thread's is the node's first
        directory = checkpoint_directory(self._run_directory, save.step)
        staged = partial_path(directory)
        try:
            on_all_ranks(lambda: self._prepare(staged), self._group)
            writer = _Writer(staged)
            # torch never checks the sums that are left out here, whose cost is half of that of SHA-256; its type of the
            # module does not list `patch`.
            with serialization_config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                state_dict_saver.save(
                    save.tensors, storage_writer=writer, process_group=self._group, no_dist=self._group is None
                )
            digests = on_all_ranks(lambda: writer.digests, self._group)
            on_all_ranks(lambda: self._commit(directory, save.files, digests), self._group)
        except (CheckpointException, OSError) as error:
            if rank() == 0:
                shutil.rmtree(staged, ignore_errors=True)  # a full disk must not stay full
            cause = first_cause(error) if isinstance(error, CheckpointException) else error.strerror or str(error)
            raise OSError(
                f"{directory}: could not be written ({cause}); older checkpoints are kept:"
                " make room and run the same command again"
            ) from error

    def _prepare(self, staged: Path) -> None:
        """Make an empty staged directory, and remove those that a kill left half-written."""
        if rank() == 0:
            for left in staged.parent.glob(partial_path(Path("step-[0-9]*")).name):
                if first_foreign(left, _is_ours) is None:
                    shutil.rmtree(left)
            staged.mkdir(parents=True)

    def _commit(self, directory: Path, files: dict[str, bytes], digests_by_rank: list[dict[str, str]]) -> None:
        """Write the small files and the manifest, and rename; then remove older checkpoints."""
        if rank() != 0:
            return
        staged = partial_path(directory)
        for name, content in files.items():
            (staged / name).write_bytes(content)
        digests = {name: file_sha256(staged / name) for name in (INDEX_FILE, *files)}
        for part in digests_by_rank:
            digests |= part
        manifest = json.dumps({"sha256": dict(sorted(digests.items()))}, indent=1) + "\n"
        (staged / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        commit_directory(directory, "run.dir", _is_ours)
        # A later one, if any, was damaged and skipped: it must not displace the one that the run resumed from.
        so_far = [path for path in list_checkpoints(self._run_directory) if step_of(path) <= step_of(directory)]
        for old in so_far[: -self._keep]:
            if step_of(old) in self._keep_steps:
                continue
            if foreign := first_foreign(old, _is_ours):
                print(f"kept {old}, because {foreign.name} in it is not part of the checkpoint", file=sys.stderr)
            else:
                doomed = old.replace(partial_path(old))
                shutil.rmtree(doomed, ignore_errors=True)


def _is_ours(name: str) -> bool:
    return _FILES.fullmatch(name) is not None


class _Writer(FileSystemWriter):
    """Writes two files a rank: weights, so that an export need not read and check more, and the rest.

    Raises the system's error: torch's own gives a place in a file, and reaches the other ranks without its cause.
    """

    def __init__(self, path: Path) -> None:
        # No copying ahead: its copies do not wait, and it synchronises the stream that training uses.
        super().__init__(path, per_thread_copy_ahead=0)
        self.fs: _FileSystem = _FileSystem()

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by name of the files of tensors that this rank has written."""
        return {name: digest for name, digest in self.fs.digests.items() if name.endswith(DEFAULT_SUFFIX)}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
        files: Queue[tuple[Path, str, list[WriteItem]]] = Queue()
        for number, of_weights in enumerate((True, False)):
            name = f"{plan.storage_data.prefix}{number}{DEFAULT_SUFFIX}"
            items = [item for item in plan.items if item.index.fqn.startswith(WEIGHTS) == of_weights]
            files.put((Path(self.path) / name, name, items))
        try:
            return self._write_data(planner, files)
        except Exception as error:
            refused = system_error(error)
            if refused is None:
                raise
            raise OSError(refused.errno, refused.strerror, str(self.path)) from error


class _FileSystem(FileSystem):
    """Hashes what is written while the processor's caches have it."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        """SHA-256 by file name."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb"
        with _HashedFile(io.FileIO(path, "w")) as file:
            yield file
        self.digests[Path(path).name] = file.sha256.hexdigest()


class _HashedFile(io.BufferedWriter):
    """A file that is written from its beginning to its end."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.sha256 = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return super().write(content)
