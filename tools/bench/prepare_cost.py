"""The cost of `nemotron4 prepare` on extreme documents: two million of 50 bytes, and one of 60 MB.

Each input runs through all stages (ingest, exact deduplication, filter, filing, training a tokenizer, tokens) by the
command line in its own process, with two workers, and time and memory are those of all its processes (`prepare_run`).
With `--against` the same inputs also run through another checkout, in turn with this one, so that ratios come from one
state of the machine.

    python tools/bench/prepare_cost.py --against ../before --output tools/bench/results/prepare_cost.json
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from machine import description, publish
from prepare_run import ROOT, run_prepare

_FILES = 8  # for the short documents: a file is read by one worker


def pool(draw: random.Random, num_words: int) -> str:
    """Text of invented words; words of low rank are drawn far more often."""
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwyz" for vowel in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    return " ".join(words[int(len(words) * draw.random() ** 3)] for _ in range(num_words))


def write_short(folder: Path, num_documents: int) -> int:
    """Write documents of 50 bytes, all different, in eight files; returns their total bytes."""
    draw = random.Random(1)
    text = pool(draw, 2_000_000)
    for number in range(_FILES):
        with (folder / f"{number}.jsonl").open("w", encoding="ascii") as file:
            for document in range(number, num_documents, _FILES):
                start = draw.randrange(len(text) - 50)
                file.write(json.dumps({"text": f"{text[start : start + 50]} {document}"[-50:]}) + "\n")
    return 50 * num_documents


def write_long(folder: Path, num_bytes: int) -> int:
    """Write one document of sentences and lines; returns its bytes."""
    draw = random.Random(2)
    text = pool(draw, 2_000_000)
    parts, size = [], 0
    while size < num_bytes:
        start = draw.randrange(len(text) - 1_000)
        parts.append(text[start : start + draw.randint(20, 900)] + draw.choice([". ", ", ", ".\n", ".\n\n", " 1984. "]))
        size += len(parts[-1])
    record = {"text": "".join(parts)[:num_bytes], "split": "train"}
    (folder / "0.jsonl").write_text(json.dumps(record) + "\n", encoding="ascii")
    return num_bytes


def prepare_settings(raw: Path, workers: int, tokenizer: Path | None) -> list[str]:
    """Overrides of a run over a folder."""
    return [
        *("corpus=files", "corpus.name=bench", f"corpus.files=[{raw}/*.jsonl]", f"executor.num_workers={workers}"),
        *("corpus.max_document_bytes=1000000000", "curation.dedup.exact=true"),
        *([f"tokenizer.model={tokenizer.absolute()}"] if tokenizer else []),
    ]


def main() -> None:
    """Make the inputs, run the checkouts on each; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--documents", type=int, default=2_000_000, help="number of documents of 50 bytes")
    parser.add_argument("--megabytes", type=float, default=60, help="size of the long document")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["short", "long"])
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model to use instead of training one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    checkouts = {"now": ROOT, **({"before": arguments.against.absolute()} if arguments.against else {})}
    document = description("sentencepiece", "pyarrow", "duckdb", "numpy", workers=arguments.workers)
    document["what"] = "nemotron4 prepare, all stages, exact deduplication; memory of all processes together (PSS)"
    with tempfile.TemporaryDirectory() as folder:
        for name, write, size in (
            ("short", write_short, arguments.documents),
            ("long", write_long, int(arguments.megabytes * 1e6)),
        ):
            if arguments.only in (None, name):
                raw = Path(folder, name)
                raw.mkdir()
                num_bytes = write(raw, size)
                settings = prepare_settings(raw, arguments.workers, arguments.tokenizer)
                found = {
                    key: run_prepare(Path(folder, f"{name}-{key}"), settings, num_bytes, checkout)
                    for key, checkout in checkouts.items()
                }
                document[name] = {"documents": size if name == "short" else 1, "bytes": num_bytes, **found}
                if "before" in found:
                    document[name]["ratios"] = {
                        key: round(found["before"][key] / found["now"][key], 2)
                        for key in ("wall_seconds", "cpu_seconds", "peak_megabytes")
                    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
