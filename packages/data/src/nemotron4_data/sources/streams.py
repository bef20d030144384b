"""Bytes of a raw file, unpacked: damage ends a stream, but what came before it is kept.

Invariant: an `OSError` with an errno is the fault of the disk or network and stops the run, as does lack of memory; any
other error while reading is damage of the file, which is recorded and reported, and the run continues.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from ..failures import is_out_of_memory
from ..zstd import ZstdError, open_zstd

COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd"),
    ".bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
}
_HEAD_BYTES = 512
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_CHUNK_BYTES = 1 << 20
_FREE_EXPANSION_BYTES = 100_000_000


class Damaged(Exception):  # noqa: N818  it describes the file
    """A file, or a member of an archive, that cannot be read further; the text says why.

    `lost` is the share of the bytes read so far that gave no record.
    """

    def __init__(self, reason: str, lost: float = 0.0) -> None:
        super().__init__(reason)
        self.lost = lost


class Bomb(Damaged):
    """A file that unpacks to far more than its size."""


# What libraries raise on damaged input; `is_damage` decides about OSError.
DAMAGE = (
    *(Damaged, EOFError, OSError, ValueError, OverflowError, NotImplementedError, RuntimeError),
    *(lzma.LZMAError, zlib.error, ZstdError, struct.error, tarfile.TarError, zipfile.BadZipFile),
)


def is_damage(error: BaseException) -> bool:
    """Whether the file is at fault, rather than its disk or network, or a lack of memory."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return False  # EINVAL: a damaged archive sent the reader to a position before the start
    return not is_out_of_memory(error)


class Budget:
    """Bytes that one raw file may still unpack to."""

    def __init__(self, size: int | None, max_expansion: int) -> None:
        self._max_expansion = max_expansion
        self._left = max(_FREE_EXPANSION_BYTES, (size or 0) * max_expansion)

    def spend(self, num_bytes: int) -> None:
        """Count unpacked bytes. Raises Bomb if they are too many."""
        self._left -= num_bytes
        if self._left < 0:
            raise Bomb(f"unpacks to more than {self._max_expansion} times its size")


class Unpacked(io.RawIOBase):
    """Unpacked bytes of `file`, which reads from `below`. They end where either is damaged, and `check` raises that."""

    def __init__(self, file: IO[bytes], budget: Budget | None, below: object = None, most: int = sys.maxsize) -> None:
        self._file = file
        self._below = below
        self._budget = budget
        self.most = most  # bytes per read, so that the position of `file` shows where damage was met
        self._damage: BaseException | None = None
        self._position = 0
        self._ahead = b""
        self.source_bytes = 0
        """Bytes of the packed file that had been read when this stream last returned data."""

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from one read of the underlying file."""
        chunk = self._ahead[: len(buffer)] or self._read(min(len(buffer), self.most))
        self._ahead = self._ahead[len(chunk) :]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        if chunk:
            self.source_bytes = self._below.tell() if isinstance(self._below, Unpacked) else self._position
        return len(chunk)

    def head(self) -> bytes:
        """The first bytes of an unread stream, which show its format; they remain to be read."""
        while len(self._ahead) < _HEAD_BYTES and (chunk := self._read(_HEAD_BYTES - len(self._ahead))):
            self._ahead += chunk
        return self._ahead

    def fail(self, error: BaseException) -> None:
        """End the stream here, damaged."""
        self._damage = self._damage or error

    def _read(self, num_bytes: int) -> bytes:
        if self._damage:
            return b""
        try:
            # read1, because a longer read would lose what it already has when it meets damage.
            read = getattr(self._file, "read1", self._file.read)
            chunk: bytes = read(num_bytes)
            if self._budget:
                self._budget.spend(len(chunk))
        except DAMAGE as error:
            if not is_damage(error):
                raise
            self._damage = error
            return b""
        return chunk

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def check(self) -> None:
        """Raise the error that ended the stream early, if any."""
        if isinstance(self._below, Unpacked):
            self._below.check()
        if self._damage:
            raise self._damage


def unpack(file: IO[bytes], name: str, budget: Budget, size: int | None) -> tuple[Unpacked, str]:
    """Decompress a file of `size` bytes; returns the stream and the name without its compression suffix.

    The first bytes show how it is compressed; the name may be wrong, for example after a download that unpacked it.
    """
    lower = name.lower()
    suffix = ".gz" if lower.endswith(".tgz") else PurePosixPath(lower).suffix
    bare = name[: -len(suffix)] if suffix in COMPRESSIONS else name
    bare = f"{name[: -len('.tgz')]}.tar" if lower.endswith(".tgz") else bare
    packed = Unpacked(file, None, file, most=min(_CHUNK_BYTES // 16, max(256, (size or sys.maxsize) // 100)))
    head = packed.head()
    found = next((known for known, magic in _MAGIC.items() if magic.match(head)), None)
    unpacked = bool(head) and (is_plain(head) or head[257:262] == b"ustar")  # the mark of a tar archive
    if found is None and (unpacked or suffix not in COMPRESSIONS):
        if not bare.lower().endswith((".tar", ".warc", ".wet")):  # no other format can be damaged when uncompressed
            packed.most = sys.maxsize
        return packed, bare
    if not head:
        packed.fail(EOFError("it is empty, which no compressed file is"))
    openers: dict[str, Any] = {
        ".gz": gzip.open,
        ".xz": partial(_Streams, lzma.LZMADecompressor),
        ".bz2": partial(_Streams, bz2.BZ2Decompressor),
        ".zst": open_zstd,
    }
    return Unpacked(openers[found or suffix](packed), budget, packed), bare


class _Streams:
    """The streams of an xz or bzip2 file; unlike in `lzma` and `bz2`, a damaged one does not count as end of file."""

    def __init__(self, new: Callable[[], Any], file: IO[bytes]) -> None:
        self._new, self._file = new, file
        self._unpacker = new()

    def read(self, num_bytes: int) -> bytes:
        """Some unpacked bytes; none at the end. EOFError if the file is truncated."""
        while True:
            packed = b""
            if self._unpacker.eof:
                packed = self._unpacker.unused_data or self._file.read(_CHUNK_BYTES)
                if not packed:
                    return b""
                packed = packed.lstrip(b"\0")  # padding
                self._unpacker = self._new() if packed else self._unpacker
            elif self._unpacker.needs_input and not (packed := self._file.read(_CHUNK_BYTES)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if content := bytes(self._unpacker.decompress(packed, num_bytes)):
                return content


def is_plain(content: bytes) -> bool:
    """Whether bytes are text in an ASCII-compatible encoding: no control characters except white space."""
    return _CONTROL.search(content) is None


@dataclass(slots=True)
class Line:
    """A line without its newline; if longer than the limit, only its beginning is kept."""

    number: int
    content: bytes
    num_bytes: int


def read_lines_of(stream: io.RawIOBase, max_bytes: int) -> Iterator[Line]:
    """The lines of a stream, holding no more than about `max_bytes` at a time."""
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
    """All of a stream, or its first `max_bytes` + 1 bytes. Raises the error that ended it early."""
    parts: list[bytes] = []
    left = max_bytes + 1
    while left and (part := stream.read(min(left, _CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
    stream.check()
    return b"".join(parts)
