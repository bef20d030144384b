"""Documents to token shards over a pool of processes: stage 3 of `nemotron4 prepare`.

Invariant: shards hold the documents in the order of `documents/`, each followed by EOS and with no BOS, whatever the
number of processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import document_path, read_lines
from .shards import ShardWriter, token_dtype
from .tokenizer import Tokenizer

_CHUNK_BYTES = 1 << 20
_CHUNKS_AHEAD_PER_WORKER = 4


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


_worker_tokenizer: Tokenizer | None = None  # one a process, set by _start_worker


def tokenise_documents(
    directory: Path,
    shards: list[tuple[str, str]],
    tokenizer_path: Path,
    output: Path,
    num_workers: int,
    advance: Callable[[int, int], None],
) -> dict[tuple[str, str], ShardCount]:
    """Encode `shards`, pairs of source and split, from `directory` into `output`; return their sizes."""
    dtype = token_dtype(Tokenizer(tokenizer_path).vocab_size)
    counts = {shard: ShardCount() for shard in shards}
    writers: dict[tuple[str, str], ShardWriter] = {}
    for shard, chunk in _encode_all(_chunks(directory, shards), tokenizer_path, num_workers):
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


def _encode_all(
    chunks: Iterable[tuple[tuple[str, str], list[bytes]]], tokenizer_path: Path, num_workers: int
) -> Iterator[tuple[tuple[str, str], EncodedChunk]]:
    """Encode chunks in order; a bounded number is in flight, so memory does not grow with the corpus."""
    num_workers = num_workers or os.cpu_count() or 1
    if num_workers == 1:
        tokenizer = Tokenizer(tokenizer_path)
        for shard, lines in chunks:
            yield shard, encode_chunk(lines, tokenizer)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(str(tokenizer_path),))
    in_flight: deque[tuple[tuple[str, str], Future[EncodedChunk]]] = deque()
    try:
        for shard, lines in chunks:
            in_flight.append((shard, pool.submit(_encode_in_worker, lines)))
            if len(in_flight) >= num_workers * _CHUNKS_AHEAD_PER_WORKER:
                shard, future = in_flight.popleft()
                yield shard, future.result()
        while in_flight:
            shard, future = in_flight.popleft()
            yield shard, future.result()
    except BrokenProcessPool as error:
        raise OSError("a tokenising process was killed, perhaps for lack of memory: lower num_workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(tokenizer_path: str) -> None:
    global _worker_tokenizer
    # Ctrl-C reaches the whole process group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_tokenizer = Tokenizer(tokenizer_path)


def _encode_in_worker(lines: list[bytes]) -> EncodedChunk:
    assert _worker_tokenizer is not None
    return encode_chunk(lines, _worker_tokenizer)


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
