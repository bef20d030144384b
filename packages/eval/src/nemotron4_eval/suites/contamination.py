"""What a training corpus's manifest says of evaluation items in its text.

Invariant: a manifest counts only if it is that of the corpus whose digest the model's provenance.json has.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nemotron4_data.manifest import Manifest


def contamination(provenance: Mapping[str, Any], run: Path | None, places: Iterable[str]) -> dict[str, Any] | str:
    """By benchmark, as the corpus's settings name it: texts compared with, those too short to find, and documents
    dropped; `unknown` without the manifest, `not decontaminated` if it compared with none.

    Looked for in the run's data.dir, then in `places`.
    """
    digest = provenance.get("corpus_digest")
    for directory in (*_data_dirs(run), *map(Path, places)) if digest else ():
        try:
            manifest = Manifest.load(directory)
        except (OSError, ValueError):
            continue
        if manifest.digest == digest:
            return _counts(manifest.stages["documents"].facts) if "documents" in manifest.stages else "unknown"
    return "unknown"


def _data_dirs(run: Path | None) -> Iterator[Path]:
    """Where the run's job read its corpus: as written, and as seen from the folder above runs/."""
    if run is None or not (run / "job.yaml").is_file():
        return
    try:
        directory = Path(yaml.safe_load((run / "job.yaml").read_text(encoding="utf-8"))["data"]["dir"])
    except (yaml.YAMLError, OSError, KeyError, TypeError):
        return
    yield directory
    yield from (parent / directory for parent in list(run.resolve().parents)[:3])


def _counts(documents: Mapping[str, Any]) -> dict[str, Any] | str:
    benchmarks = documents.get("benchmarks", {})
    steps = {step["name"]: step for step in documents.get("curation", {}).get("steps", [])}
    dropped = steps.get("decontamination", {}).get("dropped", {})
    if not benchmarks and not dropped:
        return "not decontaminated"
    return {
        name: {
            **benchmarks.get(name, {}),
            "documents_dropped": sum(size["documents"] for size in dropped.get(name, {}).values()),
        }
        for name in sorted({*benchmarks, *dropped})
    }
