"""Raw text to a corpus with the paper's curation: `nemotron4 prepare`, all stages, two workers.

The text is made from the shipped sample's training documents (`made_text`); decontamination looks for its held-out
documents. Nothing else differs from `curation=nemotron4`.

    python tools/bench/curation_of_a_gigabyte.py --output tools/bench/results/curation_of_a_gigabyte.json
"""

import argparse
import json
import tempfile
from pathlib import Path

from machine import description, publish
from made_text import made_documents, sample_documents, write_raw
from prepare_run import ROOT, run_prepare


def main() -> None:
    """Make the text, prepare it; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout, which prepares the same text afterwards")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document = description("sentencepiece", "pyarrow", "duckdb", "numpy", "rensa", workers=arguments.workers)
    document["what"] = "nemotron4 prepare curation=nemotron4, all stages; memory of all processes together (PSS)"
    num_bytes = int(arguments.megabytes * 1e6)
    sample = sample_documents()
    with tempfile.TemporaryDirectory() as folder:
        raw, items = Path(folder, "raw"), Path(folder, "items.txt")
        raw.mkdir()
        items.write_text("\n\n".join(row["text"] for row in sample if row["split"] == "heldout"), encoding="utf-8")
        originals = [row for row in sample if row["split"] == "train"]
        document["documents"] = write_raw(made_documents(originals, num_bytes), raw)
        document["bytes"] = num_bytes
        settings = [
            *("corpus=files", "corpus.name=bench", f"corpus.files=[{raw}/*.jsonl]", "curation=nemotron4"),
            f"+curation.decontamination.benchmarks.sample=[{items}]",
            f"executor.num_workers={arguments.workers}",
        ]
        checkouts = {"now": ROOT} | ({"before": arguments.against.absolute()} if arguments.against else {})
        for name, checkout in checkouts.items():
            output = Path(folder, name)
            document[name] = run_prepare(output, settings, num_bytes, checkout)
            manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
            tokens = manifest["stages"]["tokens"]["facts"]["sources"]
            for field in ("documents", "tokens"):
                kept = sum(count[field] for splits in tokens.values() for count in splits.values())
                document[name][f"kept_{field}"] = kept
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
