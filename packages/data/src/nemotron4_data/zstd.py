"""Zstandard as the standard library of Python 3.14 has it: a cut file raises EOFError instead of ending early."""

from __future__ import annotations

import sys
from typing import IO, Any, cast

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdError, ZstdFile
else:
    from backports.zstd import DecompressionParameter, ZstdError, ZstdFile

__all__ = ["ZstdError", "open_zstd"]


def open_zstd(file: Any) -> IO[bytes]:
    """A reader of all frames of a file, given as a path or a binary stream.

    A frame may need a window of up to 2 GiB, which is memory: dumps are made with `zstd --long=31`.
    """
    return cast(IO[bytes], ZstdFile(file, options={DecompressionParameter.window_log_max: 31}))
