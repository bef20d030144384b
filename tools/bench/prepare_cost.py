"""The cost of `nemotron4 prepare` on extreme documents: two million of 50 bytes, and one of 60 MB.

Each input runs through all stages (ingest, exact deduplication, filter, filing, training a tokenizer, tokens) by the
command line in its own process, with two workers. Memory is the peak of all its processes together, shared pages
counted once (PSS), sampled five times a second; CPU seconds are also of all processes. With `--against` the same inputs
also run through another checkout, in turn with this one, so that ratios come from one state of the machine.

    python tools/bench/prepare_cost.py --against ../before --output tools/bench/results/prepare_cost.json
"""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from machine import description, publish

_OWN = Path(__file__).parents[2]
_STAGE = re.compile(r"^(documents|tokenizer|tokens): (begun|\d+ file)")
_SECONDS_BETWEEN_LOOKS = 0.2  # sampling more often would take a noticeable share of the measured cores
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


def memory_of(root: int) -> int:
    """Bytes that a process and its descendants use now, shared pages divided among them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for process in family:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) * 1024  # type: ignore[index]
        except (OSError, TypeError):
            continue
    return total


def run_one(checkout: Path, raw: Path, num_bytes: int, workers: int, more: list[str]) -> dict[str, Any]:
    """Run a checkout's `prepare` on a folder; returns time, memory and a digest of the tokens it made."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sorted(checkout.glob("packages/*/src"))))}
    with tempfile.TemporaryDirectory(dir=raw.parent) as folder:
        settings = [
            *("corpus=files", "corpus.name=bench", f"corpus.files=[{raw}/*.jsonl]", f"dir={folder}/out"),
            *("corpus.max_document_bytes=1000000000", "curation.dedup.exact=true", f"executor.num_workers={workers}"),
        ]
        command = [sys.executable, "-m", "nemotron4_config.main", "prepare", *settings, *more]
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        peaks: dict[str, int] = {"": 0}
        stages: dict[str, float] = {}
        under_way = [""]
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
                stage = under_way[0]
                peaks[stage] = max(peaks.get(stage, 0), memory_of(process.pid))

        watcher = threading.Thread(target=look)
        watcher.start()
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := _STAGE.match(line):
                now = time.perf_counter()
                begun = match[2] == "begun"
                stages[match[1]] = now if begun else now - stages[match[1]]
                under_way[0] = match[1] if begun else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        is_over.set()
        watcher.join()
        wall = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{''.join(lines[-20:])}")
        digest = hashlib.sha256()
        for path in sorted(Path(folder, "out/tokens").rglob("*.*")):
            digest.update(path.read_bytes())
    cpu = used.ru_utime + used.ru_stime
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "megabytes_per_second": round(num_bytes / 1e6 / wall, 2),
        "megabytes_per_cpu_second": round(num_bytes / 1e6 / cpu, 2),
        "peak_megabytes": round(max(peaks.values()) / 1e6),
        "stages": {
            name: {"wall_seconds": round(seconds, 1), "peak_megabytes": round(peaks.get(name, 0) / 1e6)}
            for name, seconds in stages.items()
        },
        "tokens_sha256": digest.hexdigest(),
    }


def main() -> None:
    """Make the inputs, run the checkouts on each; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--documents", type=int, default=2_000_000, help="number of documents of 50 bytes")
    parser.add_argument("--megabytes", type=int, default=60, help="size of the long document")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["short", "long"])
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model to use instead of training one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    more = [f"tokenizer.model={arguments.tokenizer.absolute()}"] if arguments.tokenizer else []
    checkouts = {"now": _OWN, **({"before": arguments.against.absolute()} if arguments.against else {})}
    document = description("sentencepiece", "pyarrow", "duckdb", "numpy", workers=arguments.workers)
    document["what"] = "nemotron4 prepare, all stages, exact deduplication; memory of all processes together (PSS)"
    with tempfile.TemporaryDirectory() as folder:
        for name, write, size in (
            ("short", write_short, arguments.documents),
            ("long", write_long, arguments.megabytes * 10**6),
        ):
            if arguments.only in (None, name):
                raw = Path(folder, name)
                raw.mkdir()
                num_bytes = write(raw, size)
                found = {
                    key: run_one(checkout, raw, num_bytes, arguments.workers, more)
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
