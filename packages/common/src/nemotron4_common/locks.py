"""A lock that lets one process at a time write to a place: an flock on a file that names the holder.

Invariant: a lock ends with its process; the next process takes over the file left behind.
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
    """Hold the lock `file` of `place`, the value of the setting `key`.

    ValueError, with host and process, if another process still holds it after `wait_seconds`; OSError if the file
    system has no locks.
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
        except OSError as error:  # such as a full disk, which names no file
            raise OSError(error.errno, error.strerror, str(file)) from error
        try:
            yield
        finally:
            lock.truncate(0)


def holder(file: Path) -> tuple[str, int] | None:
    """Host and process ID of the holder of the lock `file`; None if it is free."""
    if not file.is_file():
        return None
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _written_in(file)
        except OSError:  # a file system without locks: nobody can hold one
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
    # If the lock file is gone, its holder has finished with the place and removed it.
    return os.fstat(descriptor).st_nlink > 0


def _holder_of(file: Path) -> str:
    host, pid = _written_in(file)
    return f"process {pid} on {host}" if pid else "another process"


def _written_in(file: Path) -> tuple[str, int]:
    host, _, pid = (file.read_text() if file.is_file() else "").strip().partition(" ")
    return host, int(pid or 0)
