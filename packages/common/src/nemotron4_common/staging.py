"""Writing that survives a kill or a power cut: everything is written beside its destination, synced, then renamed.

Invariants: a path that exists under its final name is complete; a directory of unfinished work contains a file that
marks it as ours (written by this program), and a directory without a mark is left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nemotron4_common.locks import exclusive
from nemotron4_common.ownership import IsOurs, check_replaceable
from nemotron4_common.signals import HeldSignals

_PARTIAL = ".partial"
_LOCK, _KEY = "lock", "key"  # files that mark a directory being filled, and one for finished tasks
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # from a file system that cannot sync directories


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader finds the old content or the new, never a part. OSError names the path.

    A link stays a link: its target is replaced. A device or pipe is written to.
    """
    try:
        if is_stream(path):
            with path.open("ab") as stream:
                stream.write(content)
        else:
            _replace_file(path.resolve(), content)
    except OSError as error:  # it names the partial file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace_file(path: Path, content: bytes) -> None:
    # A unique name: it collides with neither another writer nor a file of the user.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what a killed `write_file` left beside `path`. No other process may be writing `path`."""
    for found in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}{_PARTIAL}"):
        found.unlink()


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or another name of an open file, such as /dev/stdout."""
    parent = path.parent.resolve()
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    return is_special or parent == Path("/dev") or Path("/proc") in parent.parents


@contextmanager
def staged_directory(
    path: Path,
    key: str,
    is_ours: IsOurs = lambda name: False,
    before_replacing: Callable[[Path], None] = lambda new: None,
) -> Iterator[Path]:
    """Yield an empty directory to fill; when the body ends without an exception it replaces `path`.

    An older `path` is removed with all its files, which must all be ours by `is_ours`. `before_replacing(new)` is
    called when the new one is complete and synced and the old one still exists. ValueError, with the setting `key`, if
    a file that is not ours would be lost or another process is writing the same directory.
    """
    path = path.resolve()
    partial = partial_path(path)
    new, old = partial / "new", partial / "old"
    with HeldSignals() as signals:
        _make_marked(partial, _LOCK, key)
        with exclusive(partial / _LOCK, key, path):
            try:
                _put_back(old, path)  # if a process was killed between the two renames below
                check_replaceable(path, key, is_ours)
                _empty(partial, _LOCK)
                new.mkdir()
                with signals.let_through():
                    yield new
                    sync_tree(new)
                    before_replacing(new)
                check_replaceable(path, key, is_ours)
                if path.exists():
                    path.replace(old)
                new.replace(path)
                sync(path.parent)
            finally:
                _put_back(old, path)
                with suppress(OSError):  # the next run tries again
                    _remove_marked(partial, _LOCK)  # frees the space, as the disk may be full


def _put_back(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        old.replace(path)


@contextmanager
def task_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; when the body ends without an exception it is renamed to `path`.

    Until then it has a unique name, so that if two processes do the same task, as after a kill, one wins and neither
    sees half of the other's work. The parent of `path` must exist; it is removed once the work has been used.
    """
    partial = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=_PARTIAL, dir=path.parent))
    try:
        yield partial
        sync_tree(partial)
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_work(path: Path, key: str) -> Path:
    """A directory for finished tasks of the stage with this key; work left by a stage with another key is removed.

    ValueError if a directory of that name exists and is not ours.
    """
    mark = path / _KEY
    if not (mark.is_file() and mark.read_text() == key):
        remove_work(path)
        _make_marked(path, _KEY, "dir")
        write_file(mark, key.encode())
    return path


def remove_work(path: Path) -> None:
    """Remove a directory that `open_work` made, if it is there."""
    if (path / _KEY).is_file():
        _remove_marked(path, _KEY)
    else:
        with suppress(OSError):  # it does not exist, or is not empty, as after a kill
            path.rmdir()


def mark_partial(path: Path) -> None:
    """Mark the unfinished directory of `path`, if there is one, as ours: older versions did not mark it."""
    if partial_path(path).is_dir():
        (partial_path(path) / _LOCK).touch()


def partial_path(path: Path) -> Path:
    """Where a file or directory is built before it gets its final name."""
    return path.with_name(path.name + _PARTIAL)


def commit_directory(path: Path, key: str, is_ours: IsOurs) -> None:
    """Sync the directory built at `partial_path(path)` and rename it to `path`, replacing an older one of ours."""
    sync_tree(partial_path(path))
    check_replaceable(path, key, is_ours)
    if path.exists():
        shutil.rmtree(path)
    partial_path(path).replace(path)
    sync(path.parent)


def _make_marked(path: Path, mark: str, key: str) -> None:
    """Make a directory that will contain `mark`. ValueError if it exists with other files and without the mark."""
    path.mkdir(parents=True, exist_ok=True)
    others = [found for found in path.iterdir() if not found.name.startswith(f".{mark}.")]  # not left by `write_file`
    if others and not (path / mark).is_file():
        raise ValueError(
            f"{key} ({path}): is reserved for unfinished work, but contains {others[0].name},"
            " which this program did not create: move it elsewhere"
        )


def _empty(path: Path, mark: str) -> None:
    for found in path.iterdir():
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found.name != mark:
            found.unlink()


def _remove_marked(path: Path, mark: str) -> None:
    """Remove a directory, its mark last: whatever a kill leaves is still marked as ours."""
    _empty(path, mark)
    shutil.rmtree(path, ignore_errors=True)


def sync_tree(root: Path) -> None:
    """Sync a directory and everything in it."""
    for directory, _, names in os.walk(root):
        for name in names:
            sync(Path(directory, name))
        sync(Path(directory))


def sync(path: Path) -> None:
    """Flush a file or directory to disk (a no-op where directories cannot be synced). OSError names the path."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (error.errno in _NO_DIRECTORY_SYNC and path.is_dir()):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
