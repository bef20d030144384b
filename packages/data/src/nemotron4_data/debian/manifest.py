"""What the corpus was made of: `packages.json` for programs and `ATTRIBUTION.md` for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemotron4_common.staging import write_file

from .config import DebianConfig
from .extract import Extracted, Extraction, license_of

Counts = dict[str, tuple[int, int]]
"""(documents, bytes) by source."""

_FILE_NAME = "packages.json"
_NOTICE = """# Sources and licences

This corpus contains text from distribution packages. The `origin` of every document names its package and version, and
its `license` repeats the label below: the licence of the package as a whole, as stated in its copyright file. Single
files of a package may be under another of the licences listed; the copyright file in the package is authoritative. The
texts remain under their own licences, not under that of the program that collected them.

Markup, navigation and control characters were removed and long texts were cut into numbered parts.
"""


def read_key(folder: Path) -> str | None:
    """The key of the corpus in `folder`, None if there is none."""
    path = folder / _FILE_NAME
    return str(json.loads(path.read_bytes())["key"]) if path.exists() else None


def write_manifest(
    folder: Path,
    key: str,
    config: DebianConfig,
    tasks: Sequence[Extraction],
    results: Sequence[Extracted],
    taken: Sequence[Counts],
    missing: dict[str, str],
) -> None:
    """Write both files into `folder`."""
    packages = {
        task.package.name: _describe(task, result, counts)
        for task, result, counts in zip(tasks, results, taken, strict=True)
    }
    manifest = {
        "key": key,
        "exponent": config.exponent,
        "domains": _domains(config, results, taken),
        "sources": _sources(taken),
        "packages": dict(sorted(packages.items())),
        "not_served": missing,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_file(folder / _FILE_NAME, text.encode())
    write_file(folder / "ATTRIBUTION.md", _attribution(manifest).encode())


def _describe(task: Extraction, result: Extracted, counts: Counts) -> dict[str, Any]:
    package = task.package
    return {
        "registry": package.registry,
        "version": package.version,
        "file": package.path.name,
        "sha256": package.sha256,
        "homepage": package.upstream,
        "license": " AND ".join(dict.fromkeys(license_of(row, result) for row in task.rows.values())),
        "licenses_stated": result.licenses,
        "documents": sum(documents for documents, _ in counts.values()),
        "bytes": sum(size for _, size in counts.values()),
        "bytes_read": sum(size for _, size in result.groups.values()),
        "members_unreadable": result.unreadable,
        "sources": sorted(counts),
    }


def _domains(config: DebianConfig, results: Sequence[Extracted], taken: Sequence[Counts]) -> dict[str, dict[str, int]]:
    table = {domain: {"asked": int(target)} for domain, target in config.target_bytes.items()}
    for domain, row in table.items():
        row["read"] = sum(
            size for result in results for group, (_, size) in result.groups.items() if group.domain == domain
        )
        chosen = [n for counts in taken for source, n in counts.items() if source.split("/")[0] == domain]
        row["documents"], row["taken"] = sum(n for n, _ in chosen), sum(size for _, size in chosen)
    return table


def _sources(taken: Sequence[Counts]) -> dict[str, dict[str, int]]:
    documents: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for counts in taken:
        for source, (number, size) in counts.items():
            documents[source] += number
            num_bytes[source] += size
    return {source: {"documents": documents[source], "bytes": num_bytes[source]} for source in sorted(documents)}


def _attribution(manifest: dict[str, Any]) -> str:
    lines = [
        _NOTICE,
        "| package | version | licence | home | MB | sha256 of the package file |",
        "|---|---|---|---|---|---|",
    ]
    for name, package in manifest["packages"].items():
        if package["bytes"]:
            cells = [f"{name} ({package['registry']})", package["version"], package["license"].replace("|", "/")]
            cells += [package["homepage"], f"{package['bytes'] / 1e6:.2f}", f"`{package['sha256']}`"]
            lines.append(f"| {' | '.join(cells)} |")
    if manifest["not_served"]:
        lines += ["", "Not served when this was built:", ""]
        lines += [f"- {name}: {reason}" for name, reason in manifest["not_served"].items()]
    return "\n".join(lines) + "\n"
