"""Write the chosen documents: compressed JSON lines, manifest, attribution and licence texts, and the summary table."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from documents import Document
from sources import Source, load_allowed_licenses

from nemotron4_data.debian.archives import Package, iterate_members
from nemotron4_data.debian.rows import DOMAINS

SOURCES_FILE = Path(__file__).with_name("sources.yaml")
SPLITS = ("train", "heldout")
NOTICES = Path(__file__).with_name("notices.md")

#: Licences whose text must be included, and the package whose copyright file contains it.
LICENSE_TEXTS = {
    "PSF-2.0": "python3.11-doc", "PostgreSQL": "postgresql-doc-15", "WordNet-3.0": "wordnet-base",
    "SMLNJ": "libexene-smlnj", "Zsh": "zsh-common", "BSL-1.0": "libboost1.74-dev", "ISC": "yosys",
    "Zlib": "libnunit-doc", "MIT": "prosody",
    "BSD-2-Clause": "happy", "BSD-3-Clause": "python-django-doc", "BSD-1-Clause": "uthash-dev",
    "CC-BY-SA-3.0": "debian-handbook",
}  # fmt: skip
MAX_LICENSE_CHARS = 24_000


def publish(
    documents: list[Document],
    heldout: set[str],
    sources: list[Source],
    packages: dict[tuple[str, str], Package],
    out: Path,
) -> None:
    """Write everything into `out`; files of an earlier build are replaced."""
    out.mkdir(parents=True, exist_ok=True)
    digests = {}
    for domain in DOMAINS:
        rows = sorted((d for d in documents if d.source.split("/")[0] == domain), key=lambda d: (d.source, d.id))
        lines = [json.dumps(_record(d, heldout), ensure_ascii=False) + "\n" for d in rows]
        data = lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)
        (out / f"{domain}.jsonl.xz").write_bytes(data)
        digests[f"{domain}.jsonl.xz"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    used = _used_sources(documents, sources)
    manifest = {
        "files": digests,
        "totals": _totals(documents, heldout),
        "sources": _counts(documents, heldout),
        "origins": _origins(documents, used, packages),
        "licenses_allowed": load_allowed_licenses(SOURCES_FILE),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "ATTRIBUTION.md").write_text(_attribution(manifest["origins"]), encoding="utf-8")
    _write_licenses(packages, out / "licenses")
    _write_holders(documents, used, packages, out / "licenses" / "COPYRIGHT-HOLDERS.txt")


def _record(document: Document, heldout: set[str]) -> dict[str, str]:
    return {
        "id": document.id,
        "text": document.text,
        "source": document.source,
        "language": document.language,
        "origin": document.origin,
        "split": "heldout" if document.id in heldout else "train",
    }


def _counts(documents: list[Document], heldout: set[str]) -> dict[str, dict[str, dict[str, int]]]:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for document in sorted(documents, key=lambda d: d.source):
        splits = counts.setdefault(document.source, {split: {"documents": 0, "bytes": 0} for split in SPLITS})
        cell = splits["heldout" if document.id in heldout else "train"]
        cell["documents"] += 1
        cell["bytes"] += document.num_bytes
    return counts


def _totals(documents: list[Document], heldout: set[str]) -> dict[str, dict[str, dict[str, int]]]:
    totals = {domain: {split: {"documents": 0, "bytes": 0} for split in SPLITS} for domain in DOMAINS}
    for source, splits in _counts(documents, heldout).items():
        for split, cell in splits.items():
            for unit, value in cell.items():
                totals[source.split("/")[0]][split][unit] += value
    return totals


def _used_sources(documents: list[Document], sources: list[Source]) -> dict[str, list[Source]]:
    """Rows by origin; only those from which documents were taken."""
    pairs = {(d.origin, d.source.split("/")[0]) for d in documents}
    used: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if (source.origin, source.domain) in pairs:
            used[source.origin].append(source)
    return used


def _origins(
    documents: list[Document], used: dict[str, list[Source]], packages: dict[tuple[str, str], Package]
) -> dict[str, Any]:
    num_bytes: dict[str, int] = defaultdict(int)
    for document in documents:
        num_bytes[document.origin] += document.num_bytes
    origins = {}
    for origin, rows in sorted(used.items()):
        package = packages[rows[0].registry, rows[0].package]
        licenses = {row.license for row in rows}
        assert len(licenses) == 1, f"{origin} has rows with different licences: {licenses}"
        origins[origin] = {
            "registry": package.registry,
            "version": package.version,
            "file": package.path.name,
            "sha256": package.sha256,
            "upstream": package.upstream,
            "license": rows[0].license,
            "categories": sorted({f"{row.domain}/{row.category or '*'}" for row in rows}),
            "bytes": num_bytes[origin],
            "note": "; ".join(sorted({row.note for row in rows if row.note})),
        }
    return origins


def _attribution(origins: dict[str, Any]) -> str:
    lines = [NOTICES.read_text(encoding="utf-8"), "## Sources", ""]
    lines += ["| package | version | upstream | licence | categories | bytes | note | sha256 of the package file |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for origin, row in origins.items():
        name = f"{origin} ({row['registry']})"
        cells = [
            name,
            row["version"],
            row["upstream"],
            row["license"],
            ", ".join(row["categories"]),
            f"{row['bytes']:,}",
            row["note"],
        ]
        lines.append("| " + " | ".join([*cells, f"`{row['sha256']}`"]) + " |")
    return "\n".join(lines) + "\n"


def _write_licenses(packages: dict[tuple[str, str], Package], folder: Path) -> None:
    """Write the copyright files that contain the licence texts, each named after its licence."""
    folder.mkdir(exist_ok=True)
    for label, name in LICENSE_TEXTS.items():
        members = dict(iterate_members(packages["deb", name], lambda path, n=name: path.endswith(f"doc/{n}/copyright")))
        text = "".join(data.decode("utf-8") for data in members.values())
        assert text, f"{name} has no copyright file"
        (folder / f"{label}.txt").write_text(_shorten(text), encoding="utf-8")
    for label in ("Apache-2.0", "MPL-2.0"):
        text = Path("/usr/share/common-licenses", label).read_text(encoding="utf-8")
        (folder / f"{label}.txt").write_text(text, encoding="utf-8")


def _states_copyright(path: str) -> bool:
    pattern = r"(^|/)(doc/[^/]+/copyright|package/licen[sc]e[^/]*|dist-info/.*LICENSE[^/]*)$"
    return bool(re.search(pattern, path, re.I))


def _write_holders(
    documents: list[Document], used: dict[str, list[Source]], packages: dict[tuple[str, str], Package], path: Path
) -> None:
    """Write copyright lines by origin: of the whole package, and from the heads of the files that were taken."""
    holders: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        holders[document.origin].update(document.holders)
    lines = ["Copyright lines of the packages and of the files in the sample, by package.", ""]
    for origin, rows in sorted(used.items()):
        package = packages[rows[0].registry, rows[0].package]
        head = [data.decode("utf-8", "replace") for _, data in iterate_members(package, _states_copyright)]
        stanzas = re.findall(r"^Files: \*\n(Copyright:.*?)^[A-Z]", "\n".join(head), re.M | re.S)
        general = (
            stanzas or re.findall(r"^.*(?:Copyright [\d(]|\(c\)|public domain).*$", "\n".join(head), re.M | re.I)[:6]
        )
        found = {" ".join(line.split()) for text in general for line in text.splitlines()} | holders[origin]
        lines += [f"== {origin}", *sorted(line for line in found if line), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _shorten(text: str) -> str:
    """Shorten a machine-readable copyright file, which lists every file, to the licence texts that are not copyleft."""
    if len(text) <= MAX_LICENSE_CHARS or not text.startswith("Format:"):
        return text[:MAX_LICENSE_CHARS]
    stanzas = [s for s in re.split(r"\n\s*\n", text) if not re.search(r"^License: *\S*GPL", s, re.M)]
    return "\n\n".join(stanzas)[:MAX_LICENSE_CHARS] + "\n"


def print_summary(out: Path) -> None:
    """Print bytes and documents by source and split, then by domain."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    tables = manifest["sources"] | {f"{domain} (all)": cells for domain, cells in manifest["totals"].items()}
    print(f"{'source':32} {'train docs':>10} {'train bytes':>12} {'held docs':>10} {'held bytes':>11}")
    for name, splits in tables.items():
        train, held = splits["train"], splits["heldout"]
        print(f"{name:32} {train['documents']:10,} {train['bytes']:12,} {held['documents']:10,} {held['bytes']:11,}")
    total = sum(cells[split]["bytes"] for cells in manifest["totals"].values() for split in SPLITS)
    packed = sum(file["bytes"] for file in manifest["files"].values())
    print(f"text {total / 1e6:.2f} MB, compressed {packed / 1e6:.2f} MB")
