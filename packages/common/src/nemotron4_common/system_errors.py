"""What the operating system refused (a full disk, a lock that a file system does not have), in a line of ours.

Invariant: an error that leaves `naming_place` names a place, the system's reason and the way out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming_place(place: Path, way_out: str) -> Iterator[None]:
    """Raise what the system refuses in the body as an OSError that names its path, or `place`, and the way out.

    Errors that already have a text of ours, and lost connections, pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        raise OSError(f"{error.filename or place}: {error.strerror}; {way_out}") from error


def system_error(error: BaseException | None) -> OSError | None:
    """What the system refused, where an error came of that: itself, its cause, or what it was raised while handling."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def check_can_write(path: Path, key: str) -> None:
    """Raise ValueError, with the option's `key`, unless a file can be written there: before the work that fills it."""
    if path.is_dir():
        raise ValueError(f"{key} ({path}): is a directory; give the path of a file, such as {path / 'result.json'}")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{key} ({path}): {above} is no directory to write in; give another path")
