"""Documents to token shards over an executor: last stage of `nemotron4 prepare`.

Invariant: shards hold the documents in the order of `documents/`, each followed by EOS and with no BOS, whatever the
number of processes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import document_path, read_lines
from .executor import Executor
from .shards import ShardWriter, token_dtype
from .staging import file_sha256
from .tokenizer import Tokenizer

_CHUNK_BYTES = 1 << 20
_EXAMPLES = 3


@dataclass
class EncodedChunk:
    """Some consecutive documents of one shard, encoded."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    num_bytes: int
    not_exact: list[tuple[str, str, str]]
    """Documents that do not come back from their tokens exactly: id, cause, and what becomes of them."""
    control_text: int = 0
    """Documents in whose text a control piece or turn marker stands, spelled out: it is text like any other."""


@dataclass
class ShardCount:
    """What one shard holds; the last two are numbers of documents, as `EncodedChunk` says."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    not_exact: int = 0
    control_text: int = 0


@dataclass(frozen=True)
class _Task:
    """Some consecutive documents of one shard, as JSON lines, and the tokenizer of the run."""

    lines: list[bytes]
    tokenizer: Path
    tokenizer_sha256: str


def tokenise_documents(
    directory: Path,
    shards: list[tuple[str, str]],
    tokenizer_path: Path,
    output: Path,
    executor: Executor,
    advance: Callable[[int, int], None],
) -> tuple[dict[tuple[str, str], ShardCount], dict[str, dict[str, Any]]]:
    """Encode `shards`, pairs of source and split, from `directory` into `output`.

    Returns their sizes, and why documents do not come back exactly: by cause their number and the first of them.
    """
    dtype = token_dtype(Tokenizer(tokenizer_path).vocab_size)
    counts = {shard: ShardCount() for shard in shards}
    causes: dict[str, dict[str, Any]] = {}
    writers: dict[tuple[str, str], ShardWriter] = {}
    sha256 = file_sha256(tokenizer_path)
    in_flight: deque[tuple[str, str]] = deque()

    def tasks() -> Iterator[_Task]:
        for shard, lines in _chunks(directory, shards):
            in_flight.append(shard)
            yield _Task(lines, tokenizer_path.absolute(), sha256)

    for chunk in executor.map(_encode_task, tasks()):
        shard = in_flight.popleft()
        if shard not in writers:
            # Chunks come shard after shard, so the one before is finished.
            _close_all(writers)
            stem = output / ".".join(shard)
            stem.parent.mkdir(parents=True, exist_ok=True)
            writers = {shard: ShardWriter(stem, dtype)}
        writers[shard].append(chunk.tokens, chunk.lengths)
        count = counts[shard]
        count.documents += len(chunk.lengths)
        count.bytes += chunk.num_bytes
        count.tokens += len(chunk.tokens)
        count.not_exact += len(chunk.not_exact)
        count.control_text += chunk.control_text
        for document, cause, detail in chunk.not_exact:
            found = causes.setdefault(cause, {"documents": 0, "examples": []})
            found["documents"] += 1
            if len(found["examples"]) < _EXAMPLES:
                found["examples"].append({"id": document, "source": shard[0], "detail": detail})
        advance(len(chunk.lengths), chunk.num_bytes)
    _close_all(writers)
    return counts, dict(sorted(causes.items()))


def _close_all(writers: dict[tuple[str, str], ShardWriter]) -> None:
    for writer in writers.values():
        writer.close()


def _chunks(directory: Path, shards: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], list[bytes]]]:
    for source, split in shards:
        lines: list[bytes] = []
        num_bytes = 0
        for line in read_lines(document_path(directory, source, split)):
            lines.append(line)
            num_bytes += len(line)
            if num_bytes >= _CHUNK_BYTES:
                yield (source, split), lines
                lines, num_bytes = [], 0
        if lines:
            yield (source, split), lines


def _encode_task(task: _Task) -> EncodedChunk:
    return encode_chunk(task.lines, _tokenizer(task.tokenizer, task.tokenizer_sha256))


@lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    """A worker's tokenizer, loaded once; the digest tells it from one that lay there before."""
    return Tokenizer(path)


def encode_chunk(lines: list[bytes], tokenizer: Tokenizer) -> EncodedChunk:
    """Encode documents given as JSON lines, append EOS to each and check that each comes back exactly."""
    ids: list[int] = []
    lengths, not_exact = [], []
    num_bytes = control_text = 0
    for line in lines:
        record = json.loads(line)
        encoded = record["text"].encode()
        document = tokenizer.encode(record["text"])
        if tokenizer.decode_bytes(document) != encoded:
            not_exact.append((record["id"], *tokenizer.why_not_exact(record["text"])))
        control_text += tokenizer.spells_control(record["text"])
        ids += document
        ids.append(tokenizer.eos_id)
        lengths.append(len(document) + 1)
        num_bytes += len(encoded)
    tokens = np.array(ids, dtype=token_dtype(tokenizer.vocab_size))
    return EncodedChunk(tokens, np.array(lengths, dtype=np.int32), num_bytes, not_exact, control_text)
