"""How `nemotron4 prepare` grows with the number of documents: all stages and near deduplication, two workers.

Documents have 50 bytes, so that what a document costs, and not its text, is most of it; the tokenizer is given, as
training one takes the same time for all. Start-up, some seconds, is part of every size.

    python tools/bench/growth_documents.py MODEL.model --output tools/bench/results/growth_documents.json
"""

import argparse
import tempfile
from pathlib import Path

from curve import curve
from machine import description, publish
from prepare_cost import write_short
from prepare_run import run_prepare


def main() -> None:
    """Prepare each number of documents; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.model")
    parser.add_argument("--documents", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document = description("sentencepiece", "pyarrow", "duckdb", "numpy", workers=arguments.workers)
    found = {}
    for number in arguments.documents:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder, "raw")
            raw.mkdir()
            num_bytes = write_short(raw, number)
            settings = [
                *("corpus=files", "corpus.name=bench", f"corpus.files=[{raw}/*.jsonl]"),
                *("curation.dedup.exact=true", "curation.dedup.near=true"),
                *(f"tokenizer.model={arguments.tokenizer.absolute()}", f"executor.num_workers={arguments.workers}"),
            ]
            found[number] = run_prepare(Path(folder, "out"), settings, num_bytes)
    seconds = {
        "prepare": [each["wall_seconds"] for each in found.values()],
        "prepare, CPU seconds": [each["cpu_seconds"] for each in found.values()],
    }
    document |= {
        "what": "nemotron4 prepare of documents of 50 bytes, all stages, exact and near deduplication",
        "curves": {name: curve(arguments.documents, times, "documents") for name, times in seconds.items()},
        "peak_megabytes": {str(number): each["peak_megabytes"] for number, each in found.items()},
        "runs": {str(number): each for number, each in found.items()},
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
