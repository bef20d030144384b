"""Time exact and near deduplication end to end on one core: read, shingle, sign, band, verify, decide.

Shards of about 32 MB of text are written from JSONL files of documents; a second run on four times as many documents
(the same ones with other ids and one word in twelve changed) shows whether memory grows with the corpus.

Recall and precision are counted over all pairs of unchanged documents drawn from the same files. Shingles are cut by a
regular expression and similarities counted exactly, sharing nothing with the code under test.

    python tools/bench/dedup.py 'data/debian/raw/[ce]*/*.jsonl.zst' --output dedup.json
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from machine import description, publish

from nemotron4_data.curation.dedup import deduplicate
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.documents import FrameWriter, read_lines
from nemotron4_data.executor import open_executor
from nemotron4_data.prepare_job import ExecutorConfig

_SHARD_BYTES = 32_000_000


def documents(pattern: str, num_bytes: int) -> list[dict[str, Any]]:
    """Documents of the files in order, up to `num_bytes` of text."""
    found: list[dict[str, Any]] = []
    for path in sorted(glob(pattern)):
        for line in read_lines(Path(path)):
            found.append(json.loads(line))
            num_bytes -= len(found[-1]["text"])
            if num_bytes <= 0:
                return found
    return found


def changed_copies(originals: list[dict[str, Any]], copies: int) -> Iterator[dict[str, Any]]:
    """The documents, and copies changed enough not to be near duplicates; `copies` counts the originals too."""
    for copy in range(copies):
        draw = random.Random(copy)
        for document in originals:
            words = document["text"].split(" ")
            if copy:
                for _ in range(len(words) // 12):
                    words[draw.randrange(len(words))] = f"word{draw.randrange(10**6)}"
            yield {**document, "id": f"{copy}/{document['id']}", "text": " ".join(words)}


def write_shards(folder: Path, records: Iterator[dict[str, Any]]) -> tuple[list[Path], int, int]:
    """Write work shards; returns their paths, the number of documents and the bytes of their texts."""
    writers: list[FrameWriter] = []
    paths: list[Path] = []
    count = total = 0
    for record in records:
        if total >= len(writers) * _SHARD_BYTES:
            paths.append(folder / f"{len(paths):06}.jsonl.zst")
            writers.append(FrameWriter(paths[-1], 1))
        writers[-1].write({"split": "train", **record})
        count += 1
        total += len(record["text"].encode())
    for writer in writers:
        writer.close()
    return paths, count, total


def run_one(folder: Path) -> None:
    """Deduplicate the shards of a folder in this process; print time and memory."""
    paths = sorted(folder.glob("*.jsonl.zst"))
    with open_executor(ExecutorConfig(num_workers=1)) as executor:
        start, cpu = time.perf_counter(), time.process_time()
        drops = deduplicate(paths, DedupConfig(exact=True, near=True), folder / "work", executor)
        reasons = [drop.reason for shard in drops for drop in shard.values()]
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    found = {"exact": reasons.count("exact"), "near": reasons.count("near")}
    print(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu, "peak_megabytes": peak, "dropped": found}))


def measure(originals: list[dict[str, Any]], copies: int) -> dict[str, Any]:
    """Measure one size in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        _, count, num_bytes = write_shards(Path(folder), changed_copies(originals, copies))
        command = [sys.executable, __file__, "--run", folder]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "documents": count,
        "megabytes": round(num_bytes / 1e6, 1),
        "documents_per_cpu_second": round(count / result["cpu_seconds"]),
        "megabytes_per_cpu_second": round(num_bytes / 1e6 / result["cpu_seconds"], 1),
        **{key: round(value, 1) if isinstance(value, float) else value for key, value in result.items()},
    }


def shingles(text: str, num_words: int = 5) -> set[str]:
    """Runs of words of a text in a spaced script."""
    words = re.findall(r"[^\s\x00-/:-@\[-^`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2000-\u206f]+", text.lower())
    return {" ".join(words[i : i + num_words]) for i in range(max(1, len(words) - num_words + 1))}


def agreement(pattern: str, num_documents: int, threshold: float) -> dict[str, Any]:
    """Recall of similar pairs, and precision of near-duplicate drops, on documents drawn from all files."""
    lines = [line for path in sorted(glob(pattern)) for line in read_lines(Path(path))]
    drawn = [json.loads(line) for line in random.Random(0).sample(lines, num_documents)]
    sets = [shingles(document["text"]) for document in drawn]
    holders: dict[str, list[int]] = defaultdict(list)
    pairs = set()
    for younger, of_younger in enumerate(sets):
        shared = Counter(older for shingle in of_younger for older in holders[shingle])
        for older, count in shared.items():
            if count >= threshold * (len(sets[older]) + len(of_younger) - count):
                pairs.add((older, younger))
        for shingle in of_younger:
            holders[shingle].append(younger)
    with tempfile.TemporaryDirectory() as folder, open_executor(ExecutorConfig(num_workers=1)) as executor:
        records = ({**document, "id": str(n), "date": f"{n:06}"} for n, document in enumerate(drawn))
        paths, _, _ = write_shards(Path(folder), records)
        drops = deduplicate(
            paths, DedupConfig(exact=True, near=True, threshold=threshold), Path(folder) / "work", executor
        )
        ids = [[json.loads(line)["id"] for line in read_lines(path)] for path in paths]
        found = {int(ids[shard][n]): drop for shard, of in enumerate(drops) for n, drop in of.items()}
    near = [(int(drop.kept_id), number) for number, drop in found.items() if drop.reason == "near"]
    return {
        "documents": num_documents,
        "threshold": threshold,
        "pairs_alike": len(pairs),
        "recall_of_pairs": sum(older in found or younger in found for older, younger in pairs) / max(1, len(pairs)),
        "near_drops": len(near),
        "precision_of_near_drops": sum(tuple(sorted(pair)) in pairs for pair in near) / max(1, len(near)),
    }


def main() -> None:
    """Measure both sizes; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", help="glob of JSONL files of documents")
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--documents", type=int, default=4_000, help="how many to count recall and precision on")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run", type=Path, help="only deduplicate the shards of a folder")
    arguments = parser.parse_args()
    if arguments.run:
        run_one(arguments.run)
        return
    originals = documents(arguments.pattern, arguments.megabytes * 10**6)
    document = {
        **description("duckdb", "rensa", "numpy"),
        "what": "exact and near deduplication end to end in one process; CPU seconds of all its threads",
        "agreement": agreement(arguments.pattern, arguments.documents, DedupConfig().threshold),
        "sizes": {f"{copies}x": measure(originals, copies) for copies in (1, 4)},
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
