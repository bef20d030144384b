"""Package archives from apt, npm and pip, into a cache directory.

apt runs with private state (lists and cache below the directory), so nothing on the system changes and nothing is
installed. Hosts come from the existing configuration of apt, npm and pip. Versions are those of the day on which the
cache was made: they are recorded in `resolved.json` and apply until the directory is removed.

Invariant: an archive in `archives/` is complete; those of apt have the SHA-256 that its signed lists state.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from nemotron4_common.staging import file_sha256

from .apt import Apt, Deb
from .archives import Package, description_list_name, read_list

_CONNECTIONS = 4

Name = tuple[str, str]
"""Registry (deb, apt, npm or pypi) and name; npm and pypi names may pin a version."""


def fetch_packages(
    names: Sequence[Name], cache: Path, advance: Callable[[int, int], None]
) -> tuple[dict[Name, Package], dict[str, str]]:
    """Fetch packages that are not in the cache; `advance(packages, bytes)` reports progress.

    Returns the packages, and for each name that was not served the reason.

    Raises:
        ValueError: apt-get, apt-cache or dpkg-deb is not installed.
        OSError: apt knows none of the packages, so there is no network or the lists are empty.
    """
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    apt = Apt(cache)
    debs = [name for registry, name in names if registry == "deb"]
    known = apt.resolve(debs)
    missing = {name: "apt knows no such package" for name in debs if name not in known}
    missing |= apt.download(list(known.values()), archives, advance)
    packages: dict[Name, Package] = {}
    for registry, name in names:
        if registry == "deb" and name not in missing:
            packages[registry, name] = _from_deb(known[name], archives)
        elif registry == "apt":
            packages[registry, name] = _from_lists(name, apt.lists)
    others = [name for name in names if name[0] in ("npm", "pypi")]
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        paths = pool.map(partial(_fetch_other, archives), others)
        for (registry, name), path in zip(others, paths, strict=True):
            if path is None:
                missing[name] = f"{registry} did not serve it"
                continue
            facts = (_version(path), file_sha256(path), _upstream(path))
            packages[registry, name] = Package(_bare_name(name), registry, path, *facts)
            advance(1, path.stat().st_size)
    return packages, dict(sorted(missing.items()))


def _from_deb(deb: Deb, archives: Path) -> Package:
    return Package(deb.name, "deb", archives / deb.file, deb.version, deb.sha256, deb.upstream)


def _from_lists(name: str, lists: Path) -> Package:
    """The lists as one archive; its version is the digest of their content."""
    digest = hashlib.sha256()
    for path in sorted(lists.glob("*_dists_*_Translation-*"), key=description_list_name):
        digest.update(hashlib.sha256(description_list_name(path).encode() + b"\0" + read_list(path)).digest())
    return Package(name, "apt", lists, digest.hexdigest()[:12], digest.hexdigest(), "")


def _fetch_other(archives: Path, other: Name) -> Path | None:
    registry, name = other
    path = _find_archive(archives, registry, name)
    if path is not None:
        return path
    staging = archives / "partial"
    staging.mkdir(exist_ok=True)
    if registry == "npm":
        command = ["npm", "pack", "--silent", name]
    else:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", name]
    try:
        subprocess.run(command, cwd=staging, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = _find_archive(staging, registry, name)
    return path and path.replace(archives / path.name)


def _bare_name(name: str) -> str:
    """The name without its version pin; npm scopes begin with @."""
    return re.sub(r"(?<!^)@[^/]*$", "", name)


def _find_archive(archives: Path, registry: str, name: str) -> Path | None:
    bare = _bare_name(name)
    if registry == "npm":
        pattern = bare.removeprefix("@").replace("/", "-") + "-[0-9]*.tgz"
    else:
        pattern = bare.replace("-", "_") + "-*.whl"
    found = sorted(archives.glob(pattern))
    return found[-1] if found else None


def _version(path: Path) -> str:
    match = re.search(r"-(\d[^-]*)(?:-py.*\.whl|\.tgz)$", path.name)
    assert match, f"no version in {path.name}"
    return match.group(1)


def _upstream(path: Path) -> str:
    """The home page that an npm or pypi package names; empty if it names none."""
    if path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            handle = archive.extractfile("package/package.json")
            assert handle is not None
            return str(json.load(handle).get("homepage", ""))
    with zipfile.ZipFile(path) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        match = re.search(r"^(?:Home-page: |Project-URL: [^,]*, )(\S+)", archive.read(metadata).decode(), re.M)
    return match.group(1) if match else ""
