"""What a command may write to, and what it may remove. A file is "ours" if this program wrote it.

Invariant: a non-empty directory is written to only if it contains a file that marks it as ours, and never if it
contains an input of the same command; a file is removed only if a record of ours lists it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

IsOurs = Callable[[str], bool]
"""Whether this program wrote the file at a path, given relative to its directory."""


def check_new_or_ours(directory: Path, key: str, marks: Collection[str] = ()) -> None:
    """ValueError, with the setting `key`, unless `directory` is absent, empty, or contains one of `marks` (globs)."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{key} ({directory}): is not a directory: give one that is empty or does not exist")
    if any(path for mark in marks for path in directory.glob(mark)):
        return
    if found := min(directory.iterdir(), default=None):
        raise ValueError(
            f"{key} ({directory}): contains {found.name}, which this program did not create:"
            " give a directory that is empty or does not exist"
        )


def check_apart(place: Path, key: str, inputs: Iterable[tuple[str, str | Path]]) -> None:
    """ValueError if `place`, the value of `key`, contains or is inside an input; inputs are (setting, path)."""
    whole = place.resolve()
    parents: dict[Path, Path] = {}  # resolved once each: few directories, many files
    for other, name in inputs:
        path = Path(name).expanduser()
        if path.name == "..":
            path = path.resolve()
        if path.parent not in parents:
            parents[path.parent] = path.parent.resolve()
        path = parents[path.parent] / path.name
        # Neither a link nor its target may be lost.
        for found in (path, path.resolve()) if path.is_symlink() else (path,):
            if found.is_relative_to(whole) or whole.is_relative_to(found):
                how = "contains" if found.is_relative_to(whole) else "is inside"
                raise ValueError(f"{key} ({place}): {how} {other} ({name}): choose another {key}")


def check_replaceable(directory: Path, key: str, is_ours: IsOurs) -> None:
    """ValueError, naming the first, if `directory`, which is about to be replaced, contains files that are not ours."""
    if foreign := first_foreign(directory, is_ours):
        raise ValueError(f"{key} ({directory}): would be replaced, and {foreign} would be lost: move it elsewhere")


def first_foreign(directory: Path, is_ours: IsOurs) -> Path | None:
    """The first file or link in `directory`, in path order, that is not ours; `directory` itself if it is a file."""
    if directory.exists() and not directory.is_dir():
        return directory
    for folder, folders, names in os.walk(directory):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for path in sorted(Path(folder, name) for name in (*names, *links)):
            if not is_ours(path.relative_to(directory).as_posix()):
                return path
    return None
