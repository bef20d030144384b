"""apt with private state: which versions it offers, and their archives, downloaded in parallel and verified.

Invariant: a file gets its name in the archive directory only after its SHA-256 matches apt's signed lists.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from nemotron4_common.staging import file_sha256, sync, write_file

#: Languages whose translated package descriptions apt fetches with its lists (those with at least about a hundred).
DESCRIPTION_LANGUAGES = "en,cs,da,de,es,fi,fr,hu,it,ja,ko,nl,pl,pt,pt_BR,ru,sk,sr,sv,uk,zh_CN"
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
_CONNECTIONS = 4
_BATCH_BYTES = 24_000_000


@dataclass(frozen=True)
class Deb:
    """A binary package as apt's lists describe it."""

    name: str
    version: str
    architecture: str
    bytes: int
    sha256: str
    upstream: str

    @property
    def file(self) -> str:
        """File name that apt-get download gives it."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


class Apt:
    """apt with lists, caches and archives below one directory. ValueError if it is not installed."""

    def __init__(self, cache: Path) -> None:
        absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if absent:
            raise ValueError(
                f"corpus (debian): needs {', '.join(_TOOLS)}, but this machine has no {absent[0]}; "
                "build it on Debian, copy the corpus from there, or choose another corpus, as in corpus=sample"
            )
        self._root = cache.resolve()
        self.lists = self._root / "apt" / "lists"
        for folder in (self.lists / "partial", self._root / "apt" / "cache" / "archives" / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State::lists": self.lists,
            "Dir::Cache": self._root / "apt" / "cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",  # container images turn it off, which costs a second per start
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": 3,
            "Acquire::Languages": DESCRIPTION_LANGUAGES,
        }
        self._options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def resolve(self, names: list[str]) -> dict[str, Deb]:
        """What apt offers of `names`, stored from an earlier call if that asked for all. OSError if it offers none."""
        path = self._root / "resolved.json"
        asked = sorted(set(names))
        if path.exists():
            stored = json.loads(path.read_bytes())
            if set(asked) <= set(stored["asked"]):
                return {name: Deb(**stored["debs"][name]) for name in asked if name in stored["debs"]}
        update = self._run("apt-get", "-qq", "update")
        shown = self._run("apt-cache", "show", "--no-all-versions", *asked)
        debs = {deb.name: deb for deb in _parse_stanzas(shown.stdout) if deb.name in set(asked)}
        if asked and not debs:
            said = (update.stderr.strip() or shown.stderr.strip() or "no reason given").splitlines()[0]
            raise OSError(
                f"corpus (debian): apt offers none of {len(asked)} packages ({said}); check the network and apt's "
                f"sources"
            )
        stored = {"asked": asked, "debs": {name: asdict(deb) for name, deb in sorted(debs.items())}}
        write_file(path, json.dumps(stored, indent=1).encode())
        return debs

    def download(self, debs: list[Deb], archives: Path, advance: Callable[[int, int], None]) -> dict[str, str]:
        """Download packages to `archives`; `advance(packages, bytes)`. Returns the reason for each not served."""
        wanted = [deb for deb in debs if not (archives / deb.file).exists()]
        advance(len(debs) - len(wanted), sum(deb.bytes for deb in debs) - sum(deb.bytes for deb in wanted))
        missing: dict[str, str] = {}
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for batch, failures in pool.map(lambda b: (b, self._download_batch(b, archives)), _batches(wanted)):
                missing |= failures
                served = [deb for deb in batch if deb.name not in failures]
                advance(len(served), sum(deb.bytes for deb in served))
        return missing

    def _download_batch(self, batch: list[Deb], archives: Path) -> dict[str, str]:
        partial = archives / "partial"
        partial.mkdir(exist_ok=True)
        said = self._run("apt-get", "-qq", "download", *(f"{d.name}={d.version}" for d in batch), cwd=partial).stderr
        failures: dict[str, str] = {}
        for deb in batch:
            path = partial / deb.file
            if path.exists() and file_sha256(path) == deb.sha256:
                sync(path)
                path.replace(archives / deb.file)
            elif len(batch) > 1:  # one that is not served may fail the others
                failures |= self._download_batch([deb], archives)
            else:
                path.unlink(missing_ok=True)
                failures[deb.name] = (said.strip().splitlines() or ["its SHA-256 differs"])[0]
        return failures

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"LC_ALL": "C"}
        command = [tool, *self._options, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def _parse_stanzas(text: str) -> Iterable[Deb]:
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields and "SHA256" in fields:
            yield Deb(
                fields["Package"],
                fields["Version"],
                fields["Architecture"],
                int(fields["Size"]),
                fields["SHA256"],
                fields.get("Homepage", ""),
            )


def _batches(debs: list[Deb]) -> list[list[Deb]]:
    """Packages in groups of about _BATCH_BYTES, so that one apt-get process fetches many small ones."""
    batches: list[list[Deb]] = []
    num_bytes = _BATCH_BYTES
    for deb in debs:
        if num_bytes >= _BATCH_BYTES:
            batches.append([])
            num_bytes = 0
        batches[-1].append(deb)
        num_bytes += deb.bytes
    return batches
