"""OS errors (a full disk, a file system without locks) reported in one line.

Invariant: an error that leaves `naming_place` names a path, the system's reason and the way out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming_place(place: Path, way_out: str) -> Iterator[None]:
    """Re-raise an OS error of the body as an OSError that names its path, or `place`, and the way out.

    Errors whose message is already this program's own, and lost connections, pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        raise OSError(f"{error.filename or place}: {error.strerror}; {way_out}") from error


def system_error(error: BaseException | None) -> OSError | None:
    """The OS error behind an error: itself, its cause, or the error it was raised while handling; None if none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def check_can_write(path: Path, key: str) -> None:
    """Raise ValueError, with the setting `key`, unless a file can be written at `path`; call it before the work."""
    if path.is_dir():
        raise ValueError(f"{key} ({path}): is a directory; give the path of a file, such as {path / 'result.json'}")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{key} ({path}): {above} is not a writable directory; give another path")
