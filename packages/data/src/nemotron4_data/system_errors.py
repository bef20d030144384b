"""What the operating system refused (a full disk, a lock that a file system does not have), in a line of ours.

Invariant: an error that leaves `naming_place` names a place, the system's reason and the way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming_place(place: Path, way_out: str) -> Iterator[None]:
    """Raise what the system refuses in the body as an OSError that names its path, or `place`, and the way out.

    What was put into words already, and lost connections, pass as they are.
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
