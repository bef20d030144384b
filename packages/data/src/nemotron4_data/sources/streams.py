"""Bytes of a raw file, unpacked: damage ends a stream instead of taking what came before with it.

Invariant: an `OSError` with an errno is the fault of a place (disk, network) and stops the run, as does lack of memory;
all else that goes wrong while reading is damage of the file, which is recorded and reported, and the rest goes on.
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


class Damaged(Exception):  # noqa: N818  it is what the file is
    """A file, or a member of an archive, that cannot be read on; the text says why.

    `lost` is the share of what was read until then that gave nothing.
    """

    def __init__(self, reason: str, lost: float = 0.0) -> None:
        super().__init__(reason)
        self.lost = lost


class Bomb(Damaged):
    """A file that unpacks to far more than its size."""


# What libraries raise on damaged input; `is_damage` sorts OSError.
DAMAGE = (
    *(Damaged, EOFError, OSError, ValueError, OverflowError, NotImplementedError, RuntimeError),
    *(lzma.LZMAError, zlib.error, ZstdError, struct.error, tarfile.TarError, zipfile.BadZipFile),
)


def is_damage(error: BaseException) -> bool:
    """Whether the file is at fault, and not the place it lies in or a machine with too little memory."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return False  # EINVAL: a damaged archive sent the reader to a position before the beginning
    return not is_out_of_memory(error)


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

    def __init__(self, file: IO[bytes], budget: Budget | None, below: object = None, most: int = sys.maxsize) -> None:
        self._file = file
        self._below = below
        self._budget = budget
        self.most = most  # bytes of a read, so that the position of `file` tells where damage was met
        self._damage: BaseException | None = None
        self._position = 0
        self._ahead = b""
        self.source_bytes = 0
        """Bytes of the packed file that had been read when this stream last gave something."""

    def readable(self) -> bool:
        """It is made to be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from one read of what lies below."""
        chunk = self._ahead[: len(buffer)] or self._read(min(len(buffer), self.most))
        self._ahead = self._ahead[len(chunk) :]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        if chunk:
            self.source_bytes = self._below.tell() if isinstance(self._below, Unpacked) else self._position
        return len(chunk)

    def head(self) -> bytes:
        """The first bytes of an unread stream, by which its format is known; they are still to be read."""
        while len(self._ahead) < _HEAD_BYTES and (chunk := self._read(_HEAD_BYTES - len(self._ahead))):
            self._ahead += chunk
        return self._ahead

    def fail(self, error: BaseException) -> None:
        """Let the stream end here, damaged."""
        self._damage = self._damage or error

    def _read(self, num_bytes: int) -> bytes:
        if self._damage:
            return b""
        try:
            # read1: a longer read would lose what it already has when it meets the damage.
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
        """Raise what ended the stream before its end."""
        if isinstance(self._below, Unpacked):
            self._below.check()
        if self._damage:
            raise self._damage


def unpack(file: IO[bytes], name: str, budget: Budget, size: int | None) -> tuple[Unpacked, str]:
    """Undo the compression of a file of `size` bytes; returns the stream and the name without the suffix it has for it.

    Its first bytes tell how it is compressed: names do not always, as after a download that unpacked a file.
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
        if not bare.lower().endswith((".tar", ".warc", ".wet")):  # nothing else can be damaged where it is plain
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
    """The streams of an xz or bzip2 file; unlike `lzma` and `bz2`, it takes no damaged one for the end of the file."""

    def __init__(self, new: Callable[[], Any], file: IO[bytes]) -> None:
        self._new, self._file = new, file
        self._unpacker = new()

    def read(self, num_bytes: int) -> bytes:
        """Some unpacked bytes; none at the end. EOFError when the file is cut."""
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
    """Whether bytes are text in an encoding that keeps ASCII: they have no control characters but white space."""
    return _CONTROL.search(content) is None


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
