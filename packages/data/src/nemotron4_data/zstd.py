"""Zstandard as the standard library of Python 3.14 has it: a cut file raises EOFError instead of ending early."""

from __future__ import annotations

import sys
from typing import IO, Any, cast

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile
else:
    from backports.zstd import ZstdError, ZstdFile

__all__ = ["ZstdError", "open_zstd"]


def open_zstd(file: Any) -> IO[bytes]:
    """A reader of all frames of a file, given as a path or a binary stream."""
    return cast(IO[bytes], ZstdFile(file))
