"""Too little disk or memory: one line with the stage, the place and the way out, and no half-written files remain."""

import json
import re
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tasks
import zstandard

from nemotron4_data import Corpus, CorpusConfig, ExecutorConfig, PrepareJob, TokenizerConfig, run_prepare
from nemotron4_data import ingest as ingest_module
from nemotron4_data.curation import CurationConfig
from nemotron4_data.curation.dedup_config import DedupConfig
from nemotron4_data.executor import open_executor
from nemotron4_data.failures import in_one_line
from nemotron4_data.zstd import ZstdError

# A long document on one line, in a process that may take little more memory than it has after its imports.
SHORT_OF_MEMORY = """
import pathlib, resource, sys
import pyarrow.parquet  # libraries that are loaded short of memory fail in ways of their own
from nemotron4_data import CorpusConfig, ExecutorConfig, PrepareJob, TokenizerConfig, document_stage, run_prepare

taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 100_000_000, taken + 100_000_000))
corpus = CorpusConfig(name="long", files=["raw"], max_document_bytes=100_000_000)
try:
    run_prepare(PrepareJob(corpus=corpus, executor=ExecutorConfig(num_workers=1), dir="out"))
except OSError as error:
    print(error)
"""


@pytest.fixture
def largest_file():
    """Limit the size of files, which to writers looks like a full disk; lifted at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_in_the_database(tmp_path, largest_file, monkeypatch):
    monkeypatch.setattr(ingest_module, "_PART_BYTES", 10_000)
    (tmp_path / "raw").mkdir()
    words = ["".join(chr(97 + int(digit)) for digit in str(7919 * number)) for number in range(4000)]
    lines = [json.dumps({"text": f"a text of {word} and {word[::-1]}"}) for word in words]
    for first in range(0, 4000, 1000):
        (tmp_path / f"raw/{first}.jsonl").write_text("\n".join(lines[first : first + 1000] + lines[:3]) + "\n")
    job = PrepareJob(
        corpus=CorpusConfig(name="x", files=[f"{tmp_path}/raw/*.jsonl"]),
        curation=CurationConfig(dedup=DedupConfig(exact=True)),
        tokenizer=TokenizerConfig(vocab_size=512),
        executor=ExecutorConfig(num_workers=1),
        dir=str(tmp_path / "out"),
    )
    largest_file(60_000)
    with pytest.raises(OSError) as error:
        run_prepare(job)
    largest_file(None)
    work = tmp_path / "out/documents.work/dedup"
    expected = (
        rf"stage documents: {re.escape(str(work))}/\w+-scratch: deduplication cannot continue"
        r" \(TransactionContext Error: Failed to commit: .*File too large\):"
        r" free disk space there, or raise curation\.dedup\.memory_megabytes if memory is free, and rerun: finished"
        r" work is kept"
    )
    assert re.fullmatch(expected, str(error.value))
    assert {path.suffix for path in work.iterdir()} == {".parquet"}
    run_prepare(job)
    dropped = Corpus.open(tmp_path / "out", verify=True).manifest.stages["documents"].facts["dedup"]["exact"]["dropped"]
    assert dropped["english/documents"]["documents"] == 12  # three, once more in each of four files


def write_jsonl(path):
    path.write_text(json.dumps({"text": "one sentence after another. " * 2_000_000}) + "\n")


def write_wide_window(path):
    """As `zstd --long=31` compresses a pipe: valid, but a reader needs 2 GiB."""
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path.write_bytes(compressor.compress(b'{"text": "short"}\n') + compressor.flush())


def write_parquet(path):
    pq.write_table(pa.table({"text": ["first", "x" * 90_000_000]}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_jsonl), ("a.jsonl.zst", write_wide_window), ("a.parquet", write_parquet)],
)
def test_too_little_memory_for_a_document(tmp_path, name, write):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / name)
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout == (
        f"stage documents: out of memory at raw/{name}: lower executor.num_workers, corpus.max_document_bytes or"
        " curation.dedup.memory_megabytes, and rerun: finished work is kept\n"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".partial") == [
        "documents.work",
        "manifest.json",
        "prepare.lock",
    ]
    assert list((tmp_path / "out/documents.work").rglob("*.partial")) == []


def test_the_place_is_passed_on_from_a_worker():
    with pytest.raises(MemoryError) as error, open_executor(ExecutorConfig(num_workers=2)) as executor:
        list(executor.map(tasks.run_out_of_memory, ["a.jsonl"]))
    assert str(in_one_line(error.value, "tokens", "out")) == (
        "stage tokens: out of memory at a.jsonl: lower executor.num_workers, and rerun: finished work is kept"
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        ZstdError("Unable to decompress Zstandard data: Allocation error : not enough memory"),
    ],
)
def test_libraries_report_it_in_many_ways(error):
    assert str(in_one_line(error, "tokenizer", "out")) == (
        "stage tokenizer: out of memory: lower tokenizer.train_bytes, and rerun: finished work is kept"
    )


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), OSError("said already"), ZstdError("damaged")])
def test_other_errors_keep_their_message(error):
    assert in_one_line(error, "tokenizer", "out") is None
