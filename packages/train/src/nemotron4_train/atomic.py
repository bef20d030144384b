"""Files and directories that appear whole or not at all: staged beside the target, fsynced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace a file's text atomically."""
    staged = path.with_name(f".{path.name}.partial")
    with open(staged, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def staging_path(path: Path) -> Path:
    """Where a directory is built before it takes its name."""
    return path.with_name(f".{path.name}.partial")


def commit_directory(path: Path) -> None:
    """Give a staged directory its name: every file fsynced, then renamed over an older one."""
    staged = staging_path(path)
    for file in staged.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        else:
            sync_directory(file)
    sync_directory(staged)
    if path.exists():
        shutil.rmtree(path)
    os.replace(staged, path)
    sync_directory(path.parent)


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """Build a directory under a temporary name; it takes its own when the block ends without an error."""
    staged = staging_path(path)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        commit_directory(path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
