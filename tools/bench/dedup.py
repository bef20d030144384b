"""Exact and near deduplication end to end on one core: read, shingle, sign, band, verify, decide; and other programs.

Documents are made from the English and code of the shipped sample (`made_text`) and written as shards of 32 MB of text;
a second run on four times as much shows whether memory grows with the corpus. On a smaller set others take turns with
ours (`dedup_peers`). Recall and precision are counted over all pairs of some documents, with shingles and similarities
that share nothing with the code under test.

    python tools/bench/dedup.py --output tools/bench/results/dedup.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contestants import Contestant, compared, compete, turns
from dedup_peers import CONFIG, CONTESTANTS, shingles, turn, why_absent
from machine import description, publish
from made_text import Documents, made_documents, sample_documents

from nemotron4_data.curation.dedup import deduplicate
from nemotron4_data.documents import FrameWriter, read_lines
from nemotron4_data.executor import open_executor
from nemotron4_data.prepare_job import ExecutorConfig

_SHARD_BYTES = 32_000_000


def write_shards(folder: Path, records: Iterator[dict[str, Any]]) -> tuple[list[Path], int, int]:
    """Write work shards; returns their paths, the number of documents and the bytes of their texts."""
    writers: list[FrameWriter] = []
    paths: list[Path] = []
    count = total = 0
    for record in records:
        if total >= len(writers) * _SHARD_BYTES:
            paths.append(folder / f"{len(paths):06}.jsonl.zst")
            writers.append(FrameWriter(paths[-1], 1))
        writers[-1].write({**record, "split": "train"})
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
        drops = deduplicate(paths, CONFIG, folder / "work", executor)
        reasons = [drop.reason for shard in drops for drop in shard.values()]
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    found = {"exact": reasons.count("exact"), "near": reasons.count("near")}
    print(json.dumps({"wall_seconds": wall, "cpu_seconds": cpu, "peak_megabytes": peak, "dropped": found}))


def measure(originals: Documents, num_bytes: int) -> dict[str, Any]:
    """Measure one size in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        _, count, num_bytes = write_shards(Path(folder), made_documents(originals, num_bytes))
        command = [sys.executable, __file__, "--run", folder]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "documents": count,
        "megabytes": round(num_bytes / 1e6, 1),
        "documents_per_cpu_second": round(count / result["cpu_seconds"]),
        "megabytes_per_cpu_second": round(num_bytes / 1e6 / result["cpu_seconds"], 1),
        **{key: round(value, 1) if isinstance(value, float) else value for key, value in result.items()},
    }


def beside_others(originals: Documents, num_bytes: int, rounds: int) -> dict[str, Any]:
    """Ours and the others in turns, on the same shards; those that are not installed are left out."""
    absent = {name: reason for name in CONTESTANTS if name != "ours" and (reason := why_absent(name))}
    with tempfile.TemporaryDirectory() as folder:
        _, count, total = write_shards(Path(folder), made_documents(originals, num_bytes))
        contestants = {name: Contestant(Path(__file__), name) for name in CONTESTANTS if name not in absent}
        played = turns({name: each.take_turn for name, each in contestants.items()}, (folder, count), rounds)
        for each in contestants.values():
            each.leave()
    dropped = {name: figures["dropped"] for name, figures in played[-1].items()}
    return {
        "documents": count,
        "megabytes": round(total / 1e6, 1),
        "rounds": rounds,
        "documents_per_cpu_second": compared(played, "ours", digits=0),
        "dropped": dropped,
        "left_out": absent,
    }


def agreement(documents: Documents) -> dict[str, Any]:
    """Recall of similar pairs, and precision of near-duplicate drops."""
    sets = [shingles(document["text"]) for document in documents]
    holders: dict[str, list[int]] = defaultdict(list)
    pairs = set()
    for younger, of_younger in enumerate(sets):
        shared = Counter(older for shingle in of_younger for older in holders[shingle])
        for older, count in shared.items():
            if count >= CONFIG.threshold * (len(sets[older]) + len(of_younger) - count):
                pairs.add((older, younger))
        for shingle in of_younger:
            holders[shingle].append(younger)
    with tempfile.TemporaryDirectory() as folder, open_executor(ExecutorConfig(num_workers=1)) as executor:
        records = ({**document, "id": str(n), "date": f"{n:06}"} for n, document in enumerate(documents))
        paths, _, _ = write_shards(Path(folder), records)
        drops = deduplicate(paths, CONFIG, Path(folder) / "work", executor)
        ids = [[json.loads(line)["id"] for line in read_lines(path)] for path in paths]
        found = {int(ids[shard][n]): drop for shard, of in enumerate(drops) for n, drop in of.items()}
    near = [(int(drop.kept_id), number) for number, drop in found.items() if drop.reason == "near"]
    return {
        "documents": len(documents),
        "threshold": CONFIG.threshold,
        "pairs_alike": len(pairs),
        "recall_of_pairs": sum(older in found or younger in found for older, younger in pairs) / max(1, len(pairs)),
        "near_drops": len(near),
        "precision_of_near_drops": sum(tuple(sorted(pair)) in pairs for pair in near) / max(1, len(near)),
    }


def main() -> None:
    """Measure both sizes; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--peer-megabytes", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--agreement-megabytes", type=float, default=10, help="for recall and precision")
    parser.add_argument("--every", type=int, default=8, help="of the sample, for these two: one document of so many")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run", type=Path, help="only deduplicate the shards of a folder")
    parser.add_argument("--compete", choices=sorted(CONTESTANTS))
    arguments = parser.parse_args()
    if arguments.run:
        run_one(arguments.run)
        return
    if arguments.compete:
        compete(lambda folder, count: turn(arguments.compete, sorted(Path(folder).glob("*.jsonl.zst")), count))
        return
    document = description("duckdb", "rensa", "numpy")
    originals = [row for row in sample_documents() if not row["source"].startswith("multilingual/")]
    few = originals[:: arguments.every]  # so that even little text holds several copies of each
    document |= {
        "what": "exact and near deduplication end to end in one process; CPU seconds of all its threads",
        "agreement": agreement(list(made_documents(few, int(arguments.agreement_megabytes * 1e6)))),
        "sizes": {f"{copies}x": measure(originals, int(copies * arguments.megabytes * 1e6)) for copies in (1, 4)},
        "peers": beside_others(few, int(arguments.peer_megabytes * 1e6), arguments.rounds),
    }
    document["left_out"] = document["peers"].pop("left_out")
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
