"""Bytes of a raw file, unpacked: damage ends a stream instead of taking what came before with it.

Invariant: an `OSError` with an errno is the fault of a place (disk, network) and stops the run; all else that goes
wrong while reading is damage of the file, which is recorded and reported, and the rest goes on.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from ..zstd import ZstdError, open_zstd

COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")
_CHUNK_BYTES = 1 << 20
_FREE_EXPANSION_BYTES = 100_000_000


class Damaged(Exception):  # noqa: N818  it is what the file is
    """A file, or a member of an archive, that cannot be read on; the text says why."""


class Bomb(Damaged):
    """A file that unpacks to far more than its size."""


# What libraries raise on damaged input; `is_damage` sorts OSError.
DAMAGE = (
    *(Damaged, EOFError, OSError, ValueError, OverflowError, NotImplementedError, RuntimeError),
    *(lzma.LZMAError, zlib.error, ZstdError, struct.error, tarfile.TarError, zipfile.BadZipFile),
)


def is_damage(error: BaseException) -> bool:
    """Whether the file is at fault, and not the place it lies in."""
    # EINVAL: a damaged archive sent the reader to a position before the beginning.
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)


class Budget:
    """Bytes that one raw file may still unpack to."""

    def __init__(self, size: int | None, max_expansion: int) -> None:
        self._max_expansion = max_expansion
        self._left = max(_FREE_EXPANSION_BYTES, (size or 0) * max_expansion)

    def spend(self, num_bytes: int) -> None:
        """Count unpacked bytes. Bomb when they are too many."""
        self._left -= num_bytes
        if self._left < 0:
            raise Bomb(f"unpacks to more than {self._max_expansion} times its size")


class Unpacked(io.RawIOBase):
    """Unpacked bytes of `file`, which reads from `below`. Where either is damaged they end, and `check` says so."""

    def __init__(self, file: IO[bytes], budget: Budget | None, below: object = None) -> None:
        self._file = file
        self._below = below
        self._budget = budget
        self._damage: BaseException | None = None
        self._position = 0

    def readable(self) -> bool:
        """It is made to be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from one read of what lies below."""
        if self._damage:
            return 0
        try:
            # read1: a longer read would lose what it already has when it meets the damage.
            read = getattr(self._file, "read1", self._file.read)
            chunk: bytes = read(len(buffer))
            if self._budget:
                self._budget.spend(len(chunk))
        except DAMAGE as error:
            if not is_damage(error):
                raise
            self._damage = error
            return 0
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def check(self) -> None:
        """Raise what ended the stream before its end."""
        if isinstance(self._below, Unpacked):
            self._below.check()
        if self._damage:
            raise self._damage


def unpack(file: IO[bytes], name: str, budget: Budget) -> tuple[Unpacked, str]:
    """Undo the compression that `name` ends in; returns the stream and the name without that suffix."""
    lower = name.lower()
    if lower.endswith(".tgz"):
        return Unpacked(cast(IO[bytes], gzip.open(file)), budget, file), name[: -len(".tgz")] + ".tar"
    suffix = PurePosixPath(lower).suffix
    if suffix not in COMPRESSIONS:
        return Unpacked(file, None, file), name
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zst": open_zstd}
    opened = openers[suffix](file)
    return Unpacked(opened, budget, file), name[: -len(suffix)]


@dataclass(slots=True)
class Line:
    """A line without its newline; of one longer than the limit only its beginning is kept."""

    number: int
    content: bytes
    num_bytes: int


def read_lines_of(stream: io.RawIOBase, max_bytes: int) -> Iterator[Line]:
    """The lines of a stream, of which no more than about `max_bytes` are held at a time."""
    line = Line(1, b"", 0)
    held: list[bytes] = []
    while chunk := stream.read(_CHUNK_BYTES):
        parts = chunk.split(b"\n")
        for number, part in enumerate(parts):
            if line.num_bytes <= max_bytes:
                held.append(part)
            line.num_bytes += len(part)
            if number < len(parts) - 1:
                line.content = b"".join(held).rstrip(b"\r")
                yield line
                line, held = Line(line.number + 1, b"", 0), []
    if line.num_bytes:
        line.content = b"".join(held)
        yield line


def read_whole(stream: Unpacked, max_bytes: int) -> bytes:
    """All of a stream, or its first `max_bytes` + 1 bytes. Raises what ended it before its end."""
    parts: list[bytes] = []
    left = max_bytes + 1
    while left and (part := stream.read(min(left, _CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
    stream.check()
    return b"".join(parts)
