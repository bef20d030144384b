"""Zstandard as in the standard library of Python 3.14: a truncated file raises EOFError instead of ending early."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZstdError, decompress = zstd.ZstdError, zstd.decompress

__all__ = ["ZstdError", "decompress", "frame_sizes", "open_zstd"]


def frame_sizes(path: Path) -> Iterator[tuple[int, int]]:
    """For each frame of a file: its size and its unpacked size in bytes; the frame header must state the latter."""
    with path.open("rb") as file:
        if not path.stat().st_size:  # cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            start = 0
            while start < len(content):
                with content[start:] as rest:
                    size, unpacked = zstd.get_frame_size(rest), zstd.get_frame_info(rest).decompressed_size
                assert unpacked is not None
                yield size, unpacked
                start += size


def open_zstd(file: Any) -> IO[bytes]:
    """A reader of all frames of a file, given as a path or a binary stream.

    A frame may need a window of up to 2 GiB, which is memory: dumps are made with `zstd --long=31`.
    """
    return cast(IO[bytes], zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: 31}))
