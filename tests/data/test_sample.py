"""The sample corpus that ships with nemotron4_data keeps its promises: shares, languages, splits, licences, digests."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).resolve().parents[2] / "packages/data/src/nemotron4_data/sample"
KEYS = ["id", "text", "source", "language", "origin", "split"]
SHARES = {"english": 0.70, "multilingual": 0.15, "code": 0.15}
LANGUAGES = {
    "ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "gl", "he", "hi", "hr",
    "hu", "hy", "id", "is", "it", "ja", "ka", "kk", "kn", "ko", "lt", "lv", "mk", "ml", "mr", "ne", "nl",
    "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
}  # fmt: skip
#: What counts as free here: public domain or permissive, CC-BY(-SA) or MPL; nothing GNU, nothing non-commercial.
FREE = {
    "public-domain", "PSF-2.0", "PostgreSQL", "MIT", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0",
    "ISC", "BSL-1.0", "Zlib", "CC-BY-SA-3.0", "MPL-2.0", "WordNet-3.0", "SMLNJ", "Zsh", "MIT OR Apache-2.0", "UDHR",
}  # fmt: skip
WINDOW_CHARS = 100


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((SAMPLE / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def documents() -> list[dict[str, str]]:
    rows = []
    for domain in SHARES:
        with lzma.open(SAMPLE / f"{domain}.jsonl.xz", "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


def test_files_match_the_manifest_and_stay_small(manifest: dict[str, Any]) -> None:
    for name, file in manifest["files"].items():
        data = (SAMPLE / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"]), name
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 6_000_000


def test_manifest_counts_the_documents(manifest: dict[str, Any], documents: list[dict[str, str]]) -> None:
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for row in documents:
        splits = counts.setdefault(
            row["source"], {split: {"documents": 0, "bytes": 0} for split in ("train", "heldout")}
        )
        splits[row["split"]]["documents"] += 1
        splits[row["split"]]["bytes"] += len(row["text"].encode())
    assert counts == manifest["sources"]


def test_records_are_well_formed(documents: list[dict[str, str]]) -> None:
    for row in documents:
        assert list(row) == KEYS
        assert row["split"] in ("train", "heldout")
        assert row["id"].startswith(f"{row['origin']}/")
        assert 200 <= len(row["text"].encode()) <= 24_000, row["id"]
    assert len({row["id"] for row in documents}) == len(documents)
    assert len({" ".join(row["text"].split()) for row in documents}) == len(documents)
    assert [(r["source"].split("/")[0], r["source"], r["id"]) for r in documents] == sorted(
        ((r["source"].split("/")[0], r["source"], r["id"]) for r in documents),
        key=lambda key: (list(SHARES).index(key[0]), *key),
    )


def test_shares_are_those_of_the_report(documents: list[dict[str, str]]) -> None:
    num_bytes = dict.fromkeys(SHARES, 0)
    for row in documents:
        if row["split"] == "train":
            num_bytes[row["source"].split("/")[0]] += len(row["text"].encode())
    for domain, share in SHARES.items():
        assert num_bytes[domain] / sum(num_bytes.values()) == pytest.approx(share, abs=0.015), domain


def test_every_source_has_both_splits(manifest: dict[str, Any]) -> None:
    for source, splits in manifest["sources"].items():
        train, heldout = splits["train"]["bytes"], splits["heldout"]["bytes"]
        assert train > 0, source
        assert 0.01 < heldout / (train + heldout) < 0.15, source
    totals = [sum(cells[split]["bytes"] for cells in manifest["totals"].values()) for split in ("train", "heldout")]
    assert totals[1] / sum(totals) == pytest.approx(0.04, abs=0.01)


def test_languages_and_programming_languages(documents: list[dict[str, str]]) -> None:
    for split in ("train", "heldout"):
        rows = [row for row in documents if row["split"] == split]
        assert {row["language"] for row in rows if row["source"].startswith("multilingual/")} == LANGUAGES
        assert {row["language"] for row in rows if row["source"].startswith("english/")} == {"en"}
        assert len({row["language"] for row in rows if row["source"].startswith("code/")}) >= 30
    for row in documents:
        domain, category = row["source"].split("/")
        assert domain == "english" or category == row["language"], row["id"]
    assert len({row["source"] for row in documents if row["source"].startswith("english/")}) >= 3


def test_heldout_text_is_not_in_train(documents: list[dict[str, str]]) -> None:
    owners: dict[str, set[str]] = {}
    for row in documents:
        if row["split"] == "heldout":
            text = " ".join(row["text"].split())
            owners[row["id"]] = {
                text[i : i + WINDOW_CHARS] for i in range(0, max(1, len(text) - WINDOW_CHARS), WINDOW_CHARS)
            }
    wanted = set().union(*owners.values())
    found: set[str] = set()
    for row in documents:
        if row["split"] == "train":
            text = " ".join(row["text"].split())
            found.update(wanted.intersection(text[i : i + WINDOW_CHARS] for i in range(len(text))))
    shared = {name: len(windows & found) / len(windows) for name, windows in owners.items()}
    assert {name: share for name, share in shared.items() if share > 0.25} == {}
    assert sum(share > 0 for share in shared.values()) < 0.15 * len(shared)


def test_licenses_are_free_and_attributed(manifest: dict[str, Any], documents: list[dict[str, str]]) -> None:
    origins = manifest["origins"]
    assert {row["origin"] for row in documents} == set(origins)
    attribution = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    holders = (SAMPLE / "licenses/COPYRIGHT-HOLDERS.txt").read_text(encoding="utf-8")
    assert set(manifest["licenses_allowed"]) == FREE
    for name, origin in origins.items():
        assert origin["license"] in FREE, name
        assert origin["sha256"] in attribution, name
        assert f"| {name} (" in attribution, name
        assert f"== {name}\n" in holders, name
    for label in {origin["license"] for origin in origins.values()} - {"public-domain", "UDHR", "MIT OR Apache-2.0"}:
        assert (SAMPLE / f"licenses/{label}.txt").stat().st_size > 300, label
