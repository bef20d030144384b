"""Build the corpus: fetch packages, read each into documents, take the share of every group, write the files.

Invariant: the same archives and settings give the same bytes, whatever the executor, kills and restarts; the output
directory appears complete.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nemotron4_common.locks import exclusive
from nemotron4_common.ownership import check_new_or_ours
from nemotron4_common.rules import require
from nemotron4_common.staging import staged_directory, value_sha256

from ..documents import FrameWriter, read_lines
from ..executor import Executor
from .archives import Package
from .config import DebianConfig
from .extract import PARTIAL_SUFFIX, Extracted, Extraction, extract, license_of
from .fetch import Name, fetch_packages
from .manifest import read_key, write_manifest
from .rows import Row, load_rows
from .shares import Group, kept_shares, unit_hash

SOURCES_FILE = Path(__file__).with_name("sources.yaml")
_CACHE_LOCK = "cache.lock"

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int, int], None]]]
"""`progress(step, total_bytes)` is a context manager; call its value with the numbers of items and bytes done."""
Replacing = Callable[[], AbstractContextManager[Path]]
"""A context manager that gives an empty directory to fill, which then replaces the output."""


@dataclass(frozen=True)
class _Selection:
    """A task: write what is taken from a package to `<domain>/<name>.jsonl.zst` below `output`."""

    extraction: Extraction
    shares: dict[Group, float]
    licenses: dict[str, str]
    output: Path


def build(
    config: DebianConfig, output: Path, executor: Executor, progress: Progress, replacing: Replacing
) -> list[Path]:
    """Build the corpus in `output`; returns its files of documents in their order.

    `output` also gets `packages.json` (every package with version, digest, licence and what was taken from it, and
    those that were not served) and `ATTRIBUTION.md`.

    Raises:
        ValueError: apt-get or dpkg-deb is not installed, a domain has no text at all, or the cache is in use.
        OSError: no package is served (no network), or an archive is damaged.
    """
    return build_rows(config, load_rows(SOURCES_FILE, Row), output, executor, progress, replacing)


def build_rows(
    config: DebianConfig, rows: list[Row], output: Path, executor: Executor, progress: Progress, replacing: Replacing
) -> list[Path]:
    """`build` with a custom table of sources."""
    cache = Path(config.cache).expanduser()
    check_new_or_ours(cache, "corpus.debian.cache", (_CACHE_LOCK, "resolved.json"))
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / _CACHE_LOCK, "corpus.debian.cache", cache):
        _build(config, cache, rows, output, executor, progress, replacing)
    return sorted(output.rglob("*.jsonl.zst"))


def _build(
    config: DebianConfig,
    cache: Path,
    rows: list[Row],
    output: Path,
    executor: Executor,
    progress: Progress,
    replacing: Replacing,
) -> None:
    names = list(dict.fromkeys((row.registry, row.package) for row in rows))
    with progress("packages", None) as advance:
        packages, missing = fetch_packages([*names, ("deb", "mandoc")], cache, advance)
    mandoc = _unpack_mandoc(packages.pop(("deb", "mandoc"), None), cache)
    missing |= {} if mandoc else {"mandoc": "manual pages are left out"}
    tasks = _extractions(rows, packages, cache / "texts", mandoc)
    results: list[Extracted] = []
    with progress("reading packages", None) as advance:
        for result in executor.map(extract, tasks):
            results.append(result)
            for documents, num_bytes in result.groups.values():
                advance(documents, num_bytes)
    key = _output_key(config, tasks, missing)
    if read_key(output) == key:
        return
    shares = _shares(config, tasks, results)
    with replacing() as staged, progress("taking shares", None) as advance:
        selections = [_selection(task, result, shares, staged) for task, result in zip(tasks, results, strict=True)]
        taken = list(executor.map(select, selections))
        for counts in taken:
            for documents, num_bytes in counts.values():
                advance(documents, num_bytes)
        write_manifest(staged, key, config, tasks, results, taken, missing)


def select(task: _Selection) -> dict[str, tuple[int, int]]:
    """Write the documents whose id falls within the share of their group. Returns (documents, bytes) by source."""
    writers: dict[str, FrameWriter] = {}
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for line in read_lines(task.extraction.documents):
        document = json.loads(line)
        row, source = document.pop("row"), document["source"]
        if unit_hash(document["id"]) >= task.shares[Group(source, row)]:
            continue
        domain = source.split("/")[0]
        if domain not in writers:
            path = task.output / domain / task.extraction.documents.name
            path.unlink(missing_ok=True)  # left by an interrupted run of this task
            writers[domain] = FrameWriter(path)
        writers[domain].write({**document, "license": task.licenses[row]})
        documents, num_bytes = counts[source]
        counts[source] = documents + 1, num_bytes + len(document["text"].encode())
    for writer in writers.values():
        writer.close()
    return dict(sorted(counts.items()))


def _extractions(rows: list[Row], packages: dict[Name, Package], folder: Path, mandoc: Path | None) -> list[Extraction]:
    """One task per package that was served, largest first so that no worker is left with a large one at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(f"*.jsonl.zst.[0-9]*{PARTIAL_SUFFIX}"):
        left_over.unlink()
    grouped: dict[Name, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        mine = grouped[row.registry, row.package]
        mine[f"{row.registry}/{row.package}#{len(mine)}"] = row
    tasks = [Extraction(packages[name], mine, folder, mandoc) for name, mine in grouped.items() if name in packages]
    return sorted(tasks, key=lambda task: (-task.package.path.stat().st_size, task.package.name))


def _output_key(config: DebianConfig, tasks: list[Extraction], missing: dict[str, str]) -> str:
    """Digest of everything that the output depends on."""
    targets = {"bytes": config.target_bytes, "exponent": config.exponent}
    return value_sha256({"targets": targets, "packages": sorted(task.key for task in tasks), "missing": missing})


def _shares(config: DebianConfig, tasks: list[Extraction], results: list[Extracted]) -> dict[Group, float]:
    sizes = {group: float(size) for result in results for group, (_, size) in result.groups.items()}
    for domain in config.target_bytes:
        found = any(group.domain == domain for group in sizes)
        require(found, "corpus", "debian", f"no package yielded any {domain} text; see the reasons in packages.json")
    weights = {name: row.weight for task in tasks for name, row in task.rows.items()}
    return kept_shares(sizes, config.target_bytes, weights, config.exponent)


def _selection(task: Extraction, result: Extracted, shares: dict[Group, float], output: Path) -> _Selection:
    own = {group: shares[group] for group in result.groups}
    licenses = {name: license_of(row, result) for name, row in task.rows.items()}
    return _Selection(task, own, licenses, output)


def _unpack_mandoc(package: Package | None, cache: Path) -> Path | None:
    """The renderer of manual pages, unpacked beside its archive and not installed."""
    if package is None:
        return None
    folder = cache.resolve() / "tools" / f"mandoc-{package.sha256[:12]}"
    program = folder / "usr" / "bin" / "mandoc"
    if not program.exists():
        with staged_directory(folder, "corpus.debian.cache") as staged:
            subprocess.run(["dpkg-deb", "-x", str(package.path), str(staged)], check=True)
    return program
