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


@dataclass
class EncodedChunk:
    """Some consecutive documents of one shard, encoded."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    num_bytes: int
    not_exact: list[str]
    """Ids of documents that do not come back from their tokens exactly."""


@dataclass
class ShardCount:
    """What one shard holds; `not_exact` counts documents that did not come back exactly."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    not_exact: int = 0


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
) -> dict[tuple[str, str], ShardCount]:
    """Encode `shards`, pairs of source and split, from `directory` into `output`; return their sizes."""
    dtype = token_dtype(Tokenizer(tokenizer_path).vocab_size)
    counts = {shard: ShardCount() for shard in shards}
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
        advance(len(chunk.lengths), chunk.num_bytes)
    _close_all(writers)
    return counts


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
    num_bytes = 0
    for line in lines:
        record = json.loads(line)
        encoded = record["text"].encode()
        document = tokenizer.encode(record["text"])
        if tokenizer.decode_bytes(document) != encoded:
            not_exact.append(record["id"])
        ids += document
        ids.append(tokenizer.eos_id)
        lengths.append(len(document) + 1)
        num_bytes += len(encoded)
    tokens = np.array(ids, dtype=token_dtype(tokenizer.vocab_size))
    return EncodedChunk(tokens, np.array(lengths, dtype=np.int32), num_bytes, not_exact)
