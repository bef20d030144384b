"""Everything that only a GPU can show, by one command, in under eight minutes of one H200: `python -m nox -s gpu`.

    python tools/bench/gpu_session.py --prepare build/gpu_corpus    # where nemotron4-data is installed with its needs
    python tools/bench/gpu_session.py                               # on the machine with the GPU

Each check is printed as one line of JSON when it ends, and the table last; the status is 1 if one failed. Without a
GPU: "skipped", status 0. A check that there is no time for is "not run: time". Results go to
tools/bench/results/gpu_NAME.json and, from there, to docs/performance.md. With `--device cpu` every part runs at toy
size, which tests do.

Of ours nothing need be installed, only the repository be there. Of others: torch 2.11 or newer, numpy, safetensors,
sentencepiece, lightning (with lightning-utilities and torchmetrics), rich, matplotlib, fsspec and, before Python 3.14,
backports.zstd; torchao for float8 and transformers for the export, each left out where it is absent. Not needed are
Hydra, zstandard, pyarrow, duckdb, resiliparse and tensorboard: they were hidden from a run on torch 2.11. Wheels that
the machine lacks, in general backports.zstd and torchao, can be carried there and put on PYTHONPATH.

The parts, gpu/*.py, are processes forked from this one, which uses no CUDA itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(path) for path in sorted(ROOT.glob("packages/*/src"))]
# Whether there is a GPU is then asked without using it, so that forked processes can.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from nemotron4_train.cuda_settings import let_segments_grow, sum_in_fp32  # noqa: E402  # after the path

let_segments_grow()  # before torch
import torch  # noqa: E402  # after the path
from gpu import compiled, engine, gradients, inference, kernels, loop, mesh, page, training  # noqa: E402  # after the path
from gpu.context import Context, Machine, find_machine, real_sizes, toy_sizes  # noqa: E402  # after the path
from gpu.frame import FAILED, Part, Record, run_parts  # noqa: E402  # after the path
from machine import description  # noqa: E402  # after the path

PARTS = (
    Part("kernels", kernels.CHECKS),
    Part("gradients", gradients.CHECKS),
    Part("compiled", compiled.CHECKS),
    Part("loop", loop.CHECKS),
    Part("training_eager", training.EAGER),
    Part("training_compiled", training.COMPILED),
    Part("training_head", training.HEAD),
    Part("inference", inference.CHECKS),
    Part("engine", engine.CHECKS),
    Part("training_compiled_float8", training.COMPILED_FLOAT8),
    Part("training_eager_deterministic", training.EAGER_DETERMINISTIC),
    Part("mesh", mesh.CHECKS),
)
RESULTS, PAGE = ROOT / "tools" / "bench" / "results", ROOT / "docs" / "performance.md"
CORPUS = ROOT / "build" / "gpu_corpus"
_CORPUS_DOCUMENTS, _CORPUS_DOCUMENT_BYTES = 400, 3_000


def prepare(directory: Path) -> None:
    """A corpus of about a megabyte, out of the shipped sample."""
    from nemotron4_data.prepare import run_prepare
    from nemotron4_data.prepare_job import CorpusConfig, PrepareJob, TokenizerConfig

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "english.jsonl")
        sample = ROOT / "packages" / "data" / "src" / "nemotron4_data" / "sample" / "english.jsonl.xz"
        with lzma.open(sample, "rt", encoding="utf-8") as lines, raw.open("w", encoding="utf-8") as file:
            for number, line in zip(range(_CORPUS_DOCUMENTS), lines, strict=False):
                record = json.loads(line)
                split = "heldout" if number % 10 == 9 else "train"
                record |= {"text": record["text"][:_CORPUS_DOCUMENT_BYTES], "split": split}
                file.write(json.dumps(record) + "\n")
        run_prepare(
            PrepareJob(
                corpus=CorpusConfig(name="gpu_session", files=[str(raw)]),
                tokenizer=TokenizerConfig(vocab_size=4_096),
                dir=str(directory),
            )
        )


def corpus_at(directory: Path) -> Path | None:
    """The directory, with a corpus made there if there is none; None, saying why, if none can be made here."""
    if not directory.is_dir():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                prepare(directory)
        except (ImportError, OSError, ValueError) as error:
            print(f"no corpus, and none can be made here: {type(error).__name__}: {error}", file=sys.stderr)
            return None
    return directory


def machine_of(device: str) -> Machine | None:
    """The devices, found by a process of its own; None without any."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(find_machine, (device,))


def choose_parts(names: str | None) -> list[Part]:
    """All parts, or those named, separated by commas. Raises ValueError for one that does not exist."""
    wanted = [part.name for part in PARTS] if names is None else names.split(",")
    known = {part.name: part for part in PARTS}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--only ({','.join(unknown)}): no such part; choose from {', '.join(known)}")
    return [known[name] for name in wanted]


def show(records: list[Record]) -> None:
    """The table of all checks."""
    print(f"\n{'part':28} {'check':32} {'seconds':>8}  status")
    for record in records:
        reason = "" if record.reason is None else f": {record.reason.splitlines()[0][:100]}"
        print(f"{record.part:28} {record.check:32} {record.seconds:8.1f}  {record.status}{reason}")


def document_of(machine: Machine, records: list[Record], started: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What is published of a session."""
    started["machine"]["gpu"] = f"{machine.count} x {machine.name}" if machine.count > 1 else machine.name
    checks = [json.loads(record.line()) for record in records]
    return {**started, "what": "see gpu_session.py and gpu/*.py", "seconds": round(seconds), "checks": checks}


def main(words: list[str] | None = None) -> int:
    """Run the session; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: every part at toy size")
    parser.add_argument("--deadline", type=float, default=430.0, help="seconds for everything")
    parser.add_argument("--only", metavar="PART,...", help="run only these parts")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="what --prepare made; made if there is none")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make the corpus, and end")
    parser.add_argument(
        "--output", type=Path, help="where the results go; by default tools/bench/results/gpu_NAME.json"
    )
    parser.add_argument("--compile-backend", help="torch.compile's; by default inductor")
    parser.add_argument("--page", action="store_true", help="fill docs/performance.md from the results, and end")
    arguments = parser.parse_args(words)
    if arguments.prepare or arguments.page:
        prepare(arguments.prepare) if arguments.prepare else page.write(PAGE, RESULTS)
        return 0
    start = time.monotonic()
    parts = choose_parts(arguments.only)
    machine = machine_of(arguments.device)
    if machine is None:
        print("skipped: no GPU")
        return 0
    if arguments.compile_backend:
        use_backend(arguments.compile_backend)
    sum_in_fp32()
    started = description("torch")
    scratch = Path(tempfile.mkdtemp(prefix="gpu_session_"))
    sizes = real_sizes(machine) if machine.device == "cuda" else toy_sizes()
    context = Context(machine=machine, sizes=sizes, corpus=corpus_at(arguments.corpus), scratch=scratch)
    try:
        records = run_parts(
            parts, context, start + arguments.deadline, scratch / "log", patient=machine.device == "cpu"
        )
        if any(record.status == FAILED for record in records):
            print((scratch / "log").read_text(encoding="utf-8", errors="replace")[-20_000:], file=sys.stderr)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    publish(arguments.output, machine, document_of(machine, records, started, time.monotonic() - start))
    show(records)
    return int(any(record.status == FAILED for record in records))


def use_backend(name: str) -> None:
    """Let torch.compile use another backend by default, as inductor takes long on small CPUs."""
    compile_with = torch.compile

    def with_backend(*arguments: Any, **options: Any) -> Any:
        return compile_with(*arguments, **{"backend": name, **options})

    torch.compile = with_backend  # type: ignore[assignment]  # of fewer types


def publish(output: Path | None, machine: Machine, document: dict[str, Any]) -> None:
    """Write the results; those of a GPU go among the results, and into the page, unless told otherwise."""
    if output is None and machine.device == "cuda":
        RESULTS.mkdir(exist_ok=True)
        name = re.sub(r"\W+", "_", document["machine"]["gpu"]).strip("_").lower()
        output = RESULTS / f"gpu_{name}.json"
    if output is None:
        return
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if output.parent == RESULTS:
        page.write(PAGE, RESULTS)


if __name__ == "__main__":
    sys.exit(main())
