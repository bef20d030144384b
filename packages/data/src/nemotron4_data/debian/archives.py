"""Members of package archives (.deb, npm .tgz, wheels, apt's lists), streamed and never unpacked to disk.

Invariant: no member is held or inflated beyond MAX_MEMBER_BYTES, whatever its archive declares.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: The largest known member is a dictionary of 102 MB.
MAX_MEMBER_BYTES = 256_000_000


@dataclass(frozen=True)
class Package:
    """A fetched archive: its path, version and the digest of the file."""

    name: str
    registry: str
    path: Path
    version: str
    sha256: str
    upstream: str

    @property
    def origin(self) -> str:
        """Name and version, as stored in documents."""
        return f"{self.name}={self.version}"


def iterate_members(package: Package, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The regular files of an archive that `wants` accepts, as (path, bytes), in archive order. OSError if damaged."""
    if package.registry == "apt":
        yield from _iterate_lists(package.path, wants)
    elif package.registry == "pypi":
        with zipfile.ZipFile(package.path) as wheel:
            for info in wheel.infolist():
                if wants(info.filename) and info.file_size <= MAX_MEMBER_BYTES:
                    yield info.filename, wheel.read(info)
    elif package.registry == "npm":
        with tarfile.open(package.path) as archive:
            yield from _iterate_tar(archive, wants)
    else:
        yield from _iterate_deb(package.path, wants)


def gunzip(data: bytes) -> bytes:
    """Inflate a gzip file (dictzip too). ValueError when it is damaged, cut short or larger than MAX_MEMBER_BYTES."""
    pieces, num_bytes = [], 0
    while data:
        inflater = zlib.decompressobj(wbits=31)
        try:
            pieces.append(inflater.decompress(data, MAX_MEMBER_BYTES + 1 - num_bytes))
        except zlib.error as error:
            raise ValueError(f"damaged gzip ({error})") from None
        num_bytes += len(pieces[-1])
        if num_bytes > MAX_MEMBER_BYTES:
            raise ValueError(f"gzip of more than {MAX_MEMBER_BYTES} bytes")
        if not inflater.eof:
            raise ValueError("gzip cut short")
        data = inflater.unused_data
    return b"".join(pieces)


def _iterate_deb(path: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield from _iterate_tar(archive, wants)
            process.stdout.read()  # the padding: dpkg-deb must not be killed by a closed pipe
        except tarfile.TarError as error:
            raise OSError(f"{path}: cannot be read to its end ({error}); remove it and run again") from error
        finally:
            process.stdout.close()
        if process.wait():
            raise OSError(f"{path}: cannot be read to its end (dpkg-deb failed); remove it and run again")


def _iterate_tar(archive: tarfile.TarFile, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        path = member.name.removeprefix("./")
        if member.isfile() and member.size <= MAX_MEMBER_BYTES and wants(path):
            handle = archive.extractfile(member)
            assert handle is not None, f"regular file {path} has no data"
            yield path, handle.read()


def _iterate_lists(folder: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*_dists_*_Translation-*")):
        name = description_list_name(path)
        if wants(name):
            yield name, read_list(path)


def description_list_name(path: Path) -> str:
    """A list's name without its mirror and compression suffix."""
    match = re.search(r"_dists_(.*_Translation-\w+)", path.name.replace("%5f", "_"))
    assert match, path
    return match.group(1)


def read_list(path: Path) -> bytes:
    """Content of a file of apt's lists, whatever its compression. OSError if apt cannot read it."""
    result = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], capture_output=True)
    if result.returncode:
        raise OSError(f"{path}: cannot be read: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout
