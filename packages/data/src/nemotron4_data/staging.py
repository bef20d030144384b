"""Writing that survives a kill or a power cut: everything is written beside its place, synced, then renamed into it.

Invariant: a path that exists under its final name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part."""
    partial = partial_path(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync(path.parent)


@contextmanager
def staged_directory(path: Path, before_replacing: Callable[[], None]) -> Iterator[Path]:
    """Yield an empty directory to fill; when the body ends without an exception it takes the place of `path`.

    `before_replacing` is called when it is full and synced, while the old one still stands.
    """
    partial = partial_path(path)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk must not stay full
        raise
    _sync_tree(partial)
    before_replacing()
    _replace(partial, path)


@contextmanager
def task_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; when the body ends without an exception it is renamed to `path`.

    Its name until then is nobody else's, so that of two processes that do the same task, as after a kill, one wins and
    neither sees half of the other's work. The parent of `path` must exist: it is gone once the work is used.
    """
    partial = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=_PARTIAL, dir=path.parent))
    try:
        yield partial
        _sync_tree(partial)
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_work(path: Path, key: str) -> Path:
    """A directory for finished tasks of a stage with this key; what was left by a stage with another is removed."""
    mark = path / "key"
    if not (mark.is_file() and mark.read_text() == key):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        write_file(mark, key.encode())
    return path


def partial_path(path: Path) -> Path:
    """Where a file or directory is built before it takes its name."""
    return path.with_name(path.name + _PARTIAL)


def commit_directory(path: Path) -> None:
    """Give the directory that was built at `partial_path(path)` its name, synced, in place of an older one."""
    _sync_tree(partial_path(path))
    _replace(partial_path(path), path)


def _sync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            _sync(Path(directory, name))
        _sync(Path(directory))


def _replace(partial: Path, path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
