"""A lock on a place that one process at a time may write: an flock on a file, which says who holds it.

Invariant: nobody holds the lock of a process that has ended; the file it leaves is taken over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(file: Path, key: str, place: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `file` of `place`, which the setting `key` names.

    ValueError, with host and process, where another still has it after so long; OSError where there are no locks.
    """
    deadline = time.monotonic() + wait_seconds
    with file.open("a+") as lock:
        while not _take(lock.fileno(), key, place):
            if time.monotonic() >= deadline:
                raise ValueError(
                    f"{key} ({place}): in use by {_holder_of(file)}: wait for it to end, or choose another {key}"
                )
            time.sleep(0.2)
        try:
            lock.truncate(0)
            lock.write(f"{socket.gethostname()} {os.getpid()}\n")
            lock.flush()
        except OSError as error:  # of a full disk: it names no file
            raise OSError(error.errno, error.strerror, str(file)) from error
        try:
            yield
        finally:
            lock.truncate(0)


def holder(file: Path) -> tuple[str, int] | None:
    """Host and process that hold the lock `file`; None when nobody does."""
    if not file.is_file():
        return None
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _written_in(file)
        except OSError:  # of a file system without locks, where nobody has one
            return None
    return None


def _take(descriptor: int, key: str, place: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            f"{key} ({place}): its file system has no locks ({error.strerror}):"
            f" mount it with locks, or choose another {key}"
        ) from error
    # One whose file is gone was of a place that its holder has finished and taken away.
    return os.fstat(descriptor).st_nlink > 0


def _holder_of(file: Path) -> str:
    host, pid = _written_in(file)
    return f"process {pid} on {host}" if pid else "another process"


def _written_in(file: Path) -> tuple[str, int]:
    host, _, pid = (file.read_text() if file.is_file() else "").strip().partition(" ")
    return host, int(pid or 0)
