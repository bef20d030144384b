"""Where raw files are: local paths, the package's own sample, http(s) and object stores by fsspec, Hugging Face.

Invariant: the files of a pattern come sorted, and a file's `identity` changes with its content as far as can be told
(SHA-256 of a local file; size, time and tag of a remote one).
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from nemotron4_common.rules import require
from nemotron4_common.staging import file_sha256

from ..paths import matching_paths

HUB_SCHEME = "hf://datasets/"
_PACKAGE_SCHEME = "package://"
_LEFT_OUT = ("_", ".")
_TAGS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "sha256")


@dataclass(frozen=True)
class RawFile:
    """One raw file: `name` as the user wrote it or the glob found it, and its location."""

    name: str
    location: str
    """Absolute path, or URL."""
    size: int | None
    """In bytes; None if unknown."""

    @property
    def path(self) -> str:
        """The part of its name that has the suffixes."""
        return urlsplit(self.location).path if "://" in self.location else self.location

    @property
    def identity(self) -> list[Any]:
        """What a stage made from this file depends on: its base name (which gives the format) and its content."""
        base = printable_path(Path(self.path)).rpartition("/")[2]
        if "://" not in self.location:
            return [base, file_sha256(Path(self.location))]
        if self.location.startswith(HUB_SCHEME):
            return [self.location]
        system, path = _file_system(self.location)
        info = system.info(path)
        return [base, self.location, {tag: str(info[tag]) for tag in _TAGS if info.get(tag) is not None}]

    def open(self) -> IO[bytes]:
        """Its bytes. OSError with an errno if its disk or network fails."""
        if "://" not in self.location:
            return Path(self.location).open("rb", buffering=0)
        system, path = _file_system(self.location)
        return cast(IO[bytes], _Remote(system, path, self.name))


class _Remote(io.RawIOBase):
    """A remote file whose failures carry an errno, so that none of them is taken for damage of the file."""

    def __init__(self, system: Any, path: str, name: str) -> None:
        self._name = name
        self._file: Any = self._try(system.open, path, "rb")

    def readable(self) -> bool:
        """Always True."""
        return True

    def seekable(self) -> bool:
        """Whether the remote side can send parts of it."""
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`."""
        chunk: bytes = self._try(self._file.read, len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move; raises EINVAL, which is the reader's fault, for a position before the start."""
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
        except Exception as error:  # each store raises its own kinds of errors
            raise OSError(errno.EIO, f"cannot be read ({_one_line(error)})", self._name) from error


def find_files(
    patterns: list[str], suffixes: tuple[str, ...], warn: Callable[[str], None] = lambda text: None
) -> list[RawFile]:
    """The raw files of `corpus.files`, sorted within each pattern. ValueError for a pattern that matches no file.

    A folder stands for all files below it that end in one of `suffixes`, except those whose name or folder begins with
    `_` or `.`, such as Spark's _SUCCESS. `warn` gets a line about everything else that is skipped.
    """
    found: dict[str, RawFile] = {}
    for pattern in patterns:
        matches = _matches(pattern, suffixes, warn)
        require(bool(matches), "corpus.files", pattern, "matches no file; correct the path or the glob")
        for file in matches:
            if not file.location.startswith(HUB_SCHEME) and not file.path.lower().endswith(suffixes):
                raise ValueError(f"corpus.files ({file.name}): must end in one of {', '.join(suffixes)}")
            found.setdefault(file.location, file)
    return list(found.values())


def _matches(pattern: str, suffixes: tuple[str, ...], warn: Callable[[str], None]) -> list[RawFile]:
    if pattern.startswith(_PACKAGE_SCHEME):
        folder = Path(str(package_files("nemotron4_data"))) / pattern.removeprefix(_PACKAGE_SCHEME)
        paths = sorted(path for path in folder.glob("*") if path.name.endswith(suffixes))
        # The licences of the sample are beside it, in a folder and a file of their own.
        paths = [path for path in paths if ".jsonl" in path.name]
        return [RawFile(f"{pattern}/{path.name}", str(path), path.stat().st_size) for path in paths]
    if pattern.startswith(HUB_SCHEME):
        return [RawFile(pattern, pattern, None)]
    if "://" in pattern:
        return _remote_matches(pattern, suffixes)
    return _local_matches(pattern, suffixes, warn)


def _local_matches(pattern: str, suffixes: tuple[str, ...], warn: Callable[[str], None]) -> list[RawFile]:
    try:
        paths = matching_paths(pattern)
    except ValueError as error:
        raise ValueError(f"corpus.files ({pattern!r}): is {error}; correct it") from None
    is_literal = paths == [Path(pattern).expanduser()]
    found: list[Path] = []
    folders: set[Path] = set()
    for path in paths:
        if path.is_file():
            if is_literal or _is_meant(path.name, suffixes):
                found.append(path)
        elif not path.is_dir():
            what = f"a broken link to {os.readlink(path)}" if path.is_symlink() else "not a plain file"
            require(not is_literal, "corpus.files", pattern, f"is {what}; name another file")
            warn(f"corpus.files ({printable_path(path)}): is {what}; skipped")
        elif is_literal or (_is_meant(path.name, suffixes) and not folders.intersection(path.parents)):
            folders.add(path)
            found += _files_below(path, suffixes, warn)
    return [RawFile(printable_path(path), str(path.absolute()), path.stat().st_size) for path in found]


def _is_meant(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a glob that matches `name` is meant to: not for markers such as _SUCCESS."""
    return not name.startswith(_LEFT_OUT) or name.lower().endswith(suffixes)


def _files_below(folder: Path, suffixes: tuple[str, ...], warn: Callable[[str], None]) -> list[Path]:
    """The files of a folder and its subfolders, links followed, each folder once. OSError for an unreadable folder."""

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    for directory, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(_LEFT_OUT))
        for name in names:
            path = Path(directory, name)
            if name.startswith(_LEFT_OUT):
                continue
            if not name.lower().endswith(suffixes):
                others.append(path)
            elif path.is_file():
                found.append(path)
            else:
                warn(f"corpus.files ({printable_path(path)}): is a broken link or not a plain file; skipped")
    if others:
        what = f"{len(others)} file(s) of no known format, such as {printable_path(min(others).relative_to(folder))}"
        warn(f"corpus.files ({printable_path(folder)}): holds {what}; skipped")
    return sorted(found)


def printable_path(path: Path) -> str:
    """A path as text; bytes of a name that are not UTF-8 become escapes such as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def _remote_matches(pattern: str, suffixes: tuple[str, ...]) -> list[RawFile]:
    system, path = _file_system(pattern)
    try:
        paths = sorted(system.glob(path)) if "*" in pattern else [path]
        paths = [path for path in paths if "*" not in pattern or _is_meant(path.rpartition("/")[2], suffixes)]
        infos = {path: system.info(path) for path in paths}
        for folder in [path for path, info in infos.items() if info.get("type") == "directory"]:
            del infos[folder]
            for path, info in sorted(system.find(folder, detail=True).items()):
                parts = path.removeprefix(folder).strip("/").split("/")
                if path.lower().endswith(suffixes) and not any(part.startswith(_LEFT_OUT) for part in parts):
                    infos[path] = info
    except FileNotFoundError:
        return []
    except Exception as error:  # each store raises its own kinds of errors
        raise OSError(errno.EIO, f"cannot be read ({_one_line(error)})", pattern) from error
    names = [system.unstrip_protocol(path) for path in infos]
    return [RawFile(name, name, info.get("size")) for name, info in zip(names, infos.values(), strict=True)]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"corpus.files ({url}): cannot be opened ({_one_line(error)}); correct the URL, or "
            f"pip install 'nemotron4-data[remote]'"
        ) from error
    return system, path


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
