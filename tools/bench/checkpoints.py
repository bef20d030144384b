"""Save, load, reshard and export a checkpoint: GB/s, the time that training waits, and peak memory.

Beside ours, on the same state or the same weights: torch.save and torch.load, safetensors, and plain reading and
writing of as many bytes. All that is written is synced; all that is read is in the page cache. Within a round,
contestants take turns; figures are medians over rounds, of one thread. A checkpoint of one process is loaded by two,
sharded and tensor-parallel, and theirs by one again; weights and moments are checked to be equal to the bit.

    python tools/bench/checkpoints.py --corpus DIR --output tools/bench/results/checkpoints.json
"""

import argparse
import itertools
import socket
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from checkpoint_turns import Turns
from contestants import FORKS, TakeTurn, compared, turns
from machine import description, publish

BUILD = Path(__file__).parents[2] / "build"
MESHES = {"2 x 1": [2, 1], "1 x 2": [1, 2]}
"""Ranks that shard (FSDP2) x ranks that split tensors."""


class Processes:
    """One process, or two ranks, forked here, where the libraries are imported already: importing takes seconds."""

    def __init__(self, num_ranks: int, *options: Any) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        self._ends = []
        for rank in range(num_ranks):
            own, other = FORKS.Pipe()
            process = FORKS.Process(target=_serve, args=(other, rank, num_ranks, port, options), daemon=True)
            process.start()
            other.close()
            self._ends.append(own)

    def take_turn(self, *work: Any) -> dict[str, Any]:
        """Seconds of the slower rank, memory of both; what else they answer must be the same."""
        for end in self._ends:
            end.send(work)
        try:
            answers = [end.recv() for end in self._ends]
        except EOFError:
            sys.exit(f"{work}: died; its message is above")
        if "seconds" not in answers[0]:
            assert all(each == answers[0] for each in answers), answers
            return dict(answers[0])
        slower = max(answers, key=lambda figures: figures["seconds"])
        return slower | {"memory": sum(figures["memory"] for figures in answers)}

    def leave(self) -> None:
        """End it, or both."""
        for end in self._ends:
            end.send(None)


def _serve(end: Connection, rank: int, num_ranks: int, port: int, options: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a single process is intended
    if num_ranks > 1:
        store = dist.TCPStore("127.0.0.1", port, num_ranks, is_master=rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)
    own = Turns(*options)
    while (work := end.recv()) is not None:
        end.send(own.take_turn(*work))
    if num_ranks > 1:
        dist.destroy_process_group()


def table(contestants: Mapping[str, TakeTurn], rounds: int, base: str) -> dict[str, Any]:
    """Medians by contestant, and how many times as fast as `base` each is, with quartiles."""
    measured = turns(contestants, (), rounds)
    found = compared(measured, base, digits=3)
    for name, figures in found.items():
        for field in measured[0][name].keys() - {"speed"}:
            figures[field] = round(statistics.median(each[name][field] for each in measured), 3)
        figures["gigabytes_per_second"] = figures.pop("speed")
        figures["memory_per_byte"] = figures.pop("memory")
    return found


def measure(layers: int, rounds: int, options: tuple[Any, ...]) -> dict[str, Any]:
    """All tables of one size, in new processes."""
    saver, waiting, peers = (Processes(1, *options) for _ in range(3))
    steps = itertools.count(1)
    num_bytes = 12 * saver.take_turn("num_parameters", layers)["parameters"]
    run, other = f"run-{layers}", f"waiting-{layers}"
    saving = {
        "async": lambda: saver.take_turn("save", layers, None, run, next(steps), True),
        "not async": lambda: waiting.take_turn("save", layers, None, other, next(steps), False),
        "torch.save": partial(peers.take_turn, "torch_save", layers),
        "plain write": partial(peers.take_turn, "write", num_bytes),
    }
    document: dict[str, Any] = {"parameters": num_bytes // 12, "state_gigabytes": round(num_bytes / 1e9, 3)}
    document["save"] = table(saving, rounds, "plain write")
    digest = saver.take_turn("digest")
    waiting.take_turn("release")
    loading = {
        "ours": partial(saver.take_turn, "load", layers, None, run),
        "torch.load": partial(peers.take_turn, "torch_load", layers),
        "plain read": partial(peers.take_turn, "read"),
    }
    document["load"] = table(loading, rounds, "torch.load")
    assert saver.take_turn("digest") == digest
    for dtype in ("fp32", "bf16"):
        exporting = {
            "ours": partial(saver.take_turn, "export", layers, run, dtype),
            "safetensors": partial(peers.take_turn, "save_file", layers, dtype),
        }
        document[f"export {dtype}"] = table(exporting, rounds, "safetensors")
        peers.take_turn("release")
        opening = {
            "ours": partial(saver.take_turn, "load_export", layers, dtype),
            "safetensors": partial(peers.take_turn, "load_file", layers, dtype),
        }
        document[f"load export {dtype}"] = table(opening, rounds, "safetensors")
    document["reshard"] = reshard(layers, rounds, Processes(2, *options), saver, run, digest)
    for contestant in (saver, waiting, peers):
        contestant.leave()
    return document


def reshard(layers: int, rounds: int, ranks: Processes, one: Processes, run: str, digest: Any) -> dict[str, Any]:
    """From one process to two and back; all loads are compared with that by the one that saved."""
    for name, mesh in MESHES.items():
        ranks.take_turn("load", layers, mesh, run)
        assert ranks.take_turn("digest") == digest, name
        ranks.take_turn("save", layers, mesh, f"{run}-{name}", 1, False)
        ranks.take_turn("release")
        one.take_turn("load", layers, None, f"{run}-{name}")
        assert one.take_turn("digest") == digest, name
    contestants = {"1 to 1": partial(one.take_turn, "load", layers, None, run)}
    for name, mesh in MESHES.items():
        contestants[f"1 to {name}"] = partial(ranks.take_turn, "load", layers, mesh, run)
        contestants[f"{name} to 1"] = partial(one.take_turn, "load", layers, None, f"{run}-{name}")
    found = table(contestants, rounds, "1 to 1")
    ranks.leave()
    return found


def main() -> None:
    """Measure each size; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a prepared corpus")
    parser.add_argument("--preset", default="nano_30m")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16], help="a size each")
    parser.add_argument("--rounds", type=int, nargs="+", default=[3, 1], help="of each size")
    parser.add_argument(
        "--work", type=Path, default=BUILD, help="where to make, and remove, a directory of checkpoints"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    document = description("torch", "safetensors", threads=1)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        options = (arguments.corpus, Path(work), arguments.preset)
        pairs = zip(arguments.layers, arguments.rounds, strict=True)
        sizes = [measure(layers, rounds, options) for layers, rounds in pairs]
    document |= {
        "what": "seconds and GB/s of the state (weights and AdamW's moments, fp32) or of the exported weights; synced"
        " writes, warm reads; memory: the process's peak, in bytes per byte, with the state that it held",
        "rounds": arguments.rounds,
        "preset": arguments.preset,
        "sizes": sizes,
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
