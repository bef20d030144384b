"""Where raw files lie: local paths, the package's own sample, http(s) and object stores by fsspec, Hugging Face.

Invariant: the files of a pattern come sorted, and a file's `identity` changes with its content as far as its place
tells (SHA-256 of a local file; size, time and tag of a remote one).
"""

from __future__ import annotations

import errno
import io
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit

from ..staging import file_sha256

HUB_SCHEME = "hf://datasets/"
_PACKAGE_SCHEME = "package://"
_TAGS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "sha256")


@dataclass(frozen=True)
class RawFile:
    """One raw file: `name` as the user wrote it or the glob found it, and what it is opened by."""

    name: str
    location: str
    """Absolute path, or URL."""
    size: int | None
    """Bytes; None where the place does not tell."""

    @property
    def path(self) -> str:
        """The part of its name that has the suffixes."""
        return urlsplit(self.location).path if "://" in self.location else self.location

    @property
    def identity(self) -> list[Any]:
        """What a stage made from this file depends on: its base name (it tells the format) and its content."""
        base = PurePosixPath(self.path).name
        if "://" not in self.location:
            return [base, file_sha256(Path(self.location))]
        if self.location.startswith(HUB_SCHEME):
            return [self.location]
        system, path = _file_system(self.location)
        info = system.info(path)
        return [base, self.location, {tag: str(info[tag]) for tag in _TAGS if info.get(tag) is not None}]

    def open(self) -> IO[bytes]:
        """Its bytes. OSError with an errno when its place fails."""
        if "://" not in self.location:
            return Path(self.location).open("rb", buffering=0)
        system, path = _file_system(self.location)
        return cast(IO[bytes], _Remote(system, path, self.name))


class _Remote(io.RawIOBase):
    """A remote file whose failures carry an errno, so that none of them passes for damage of the file."""

    def __init__(self, system: Any, path: str, name: str) -> None:
        self._name = name
        self._file: Any = self._try(system.open, path, "rb")

    def readable(self) -> bool:
        """It is made to be read."""
        return True

    def seekable(self) -> bool:
        """Whether its place gives parts of it."""
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`."""
        chunk: bytes = self._try(self._file.read, len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move; raises EINVAL, which is the reader's fault, for a position before the beginning."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Position in bytes."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._file.close()
        super().close()

    def _try(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # each store raises errors of its own kind
            raise OSError(errno.EIO, f"cannot be read ({_one_line(error)})", self._name) from error


def find_files(patterns: list[str], suffixes: tuple[str, ...]) -> list[RawFile]:
    """The raw files of `corpus.files`, sorted within each pattern. ValueError for one that matches no file."""
    found: dict[str, RawFile] = {}
    for pattern in patterns:
        matches = _matches(pattern, suffixes)
        if not matches:
            raise ValueError(f"corpus.files ({pattern}) matches no file: correct the path or the glob")
        for file in matches:
            if not file.location.startswith(HUB_SCHEME) and not file.path.lower().endswith(suffixes):
                raise ValueError(f"corpus.files ({file.name}) must end in one of {', '.join(suffixes)}")
            found.setdefault(file.location, file)
    return list(found.values())


def _matches(pattern: str, suffixes: tuple[str, ...]) -> list[RawFile]:
    if pattern.startswith(_PACKAGE_SCHEME):
        folder = Path(str(package_files("nemotron4_data"))) / pattern.removeprefix(_PACKAGE_SCHEME)
        paths = sorted(path for path in folder.glob("*") if path.name.endswith(suffixes))
        # The licences of the sample lie beside it, in a folder and a file of their own.
        paths = [path for path in paths if ".jsonl" in path.name]
        return [RawFile(f"{pattern}/{path.name}", str(path), path.stat().st_size) for path in paths]
    if pattern.startswith(HUB_SCHEME):
        return [RawFile(pattern, pattern, None)]
    if "://" in pattern:
        return _remote_matches(pattern)
    path = Path(pattern).expanduser()
    paths = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    return [RawFile(str(path), str(path.absolute()), path.stat().st_size) for path in paths]


def _remote_matches(pattern: str) -> list[RawFile]:
    system, path = _file_system(pattern)
    try:
        paths = sorted(system.glob(path)) if "*" in pattern else [path]
        infos = [system.info(path) for path in paths]
    except FileNotFoundError:
        return []
    except Exception as error:  # each store raises errors of its own kind
        raise OSError(errno.EIO, f"cannot be read ({_one_line(error)})", pattern) from error
    names = [system.unstrip_protocol(path) for path in paths]
    return [RawFile(name, name, info.get("size")) for name, info in zip(names, infos, strict=True)]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"corpus.files ({url}) cannot be opened ({_one_line(error)}): correct the URL, or "
            f"pip install 'nemotron4-data[remote]'"
        ) from error
    return system, path


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
