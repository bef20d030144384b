"""Members of tar and zip archives as streams; nothing is written to disk.

Invariant: each member that is not a directory is yielded once, as its bytes or as a refusal.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast

from .records import Refusal
from .streams import DAMAGE, Damaged, is_damage

UNSAFE_NAME = "unsafe path in an archive"


def is_unsafe(name: str) -> bool:
    """Whether a member's name is absolute, leaves its folder by `..`, or is a Windows path."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]


class _Header(tarfile.TarInfo):
    """`tarfile` takes a damaged or missing header for the end of the archive; here only the end mark ends it."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed leaves it out
            raise
        except tarfile.HeaderError as error:
            raise Damaged(f"tar archive without end mark: {error}") from error


def tar_members(stream: Any) -> Iterator[tuple[str, IO[bytes] | Refusal, int]]:
    """Name, bytes and size of each member, in order; read each before taking the next. Raises on damage."""
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            name = member.name.encode("utf-8", errors="backslashreplace").decode()
            if member.isdir():
                continue
            if is_unsafe(member.name):
                yield name, Refusal(name, UNSAFE_NAME), member.size
            elif not member.isreg() or member.issparse():
                yield name, Refusal(name, "not a plain file in an archive"), member.size
            else:
                yield name, cast(IO[bytes], archive.extractfile(member)), member.size


def zip_members(file: Any) -> Iterator[tuple[str, IO[bytes] | Refusal, int]]:
    """Name, bytes and size of each member, in the order of the directory. Raises if the directory is damaged."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.encode("utf-8", errors="backslashreplace").decode()
            if member.is_dir():
                continue
            if is_unsafe(member.filename):
                yield name, Refusal(name, UNSAFE_NAME), member.file_size
            elif member.flag_bits & 1:
                yield name, Refusal(name, "encrypted in an archive"), member.file_size
            else:
                try:
                    opened = archive.open(member)
                except DAMAGE as error:
                    if not is_damage(error):
                        raise
                    detail = str(error).encode("utf-8", errors="backslashreplace")
                    unread = (member.file_size, member.file_size)
                    yield name, Refusal(name, "damaged file", detail, unread), member.file_size
                    continue
                with opened:
                    yield name, opened, member.file_size
