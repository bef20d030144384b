"""File names as users write them: a path or a glob."""

from __future__ import annotations

import os
from pathlib import Path


def matching_paths(pattern: str) -> list[Path]:
    """The paths that a glob matches, sorted; a name that exists is taken as a path, even with brackets in it.

    ValueError if it can be neither.
    """
    try:
        path = Path(pattern).expanduser()
        if os.path.lexists(path):
            return [path]
        return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    except (ValueError, RuntimeError, NotImplementedError, IndexError) as error:
        raise ValueError(f"neither a path nor a glob ({str(error).rstrip('.')})") from None
