"""Documents to token shards on an executor: last stage of `nemotron4 prepare`.

A task is some stretches of the files in `documents/`, about 4 MB of lines in total; its directory holds their tokens.
The shards are the concatenated tokens of all tasks.

Invariant: shards hold the documents in the order of `documents/`, each followed by EOS and without BOS, whatever the
number of processes and however often they were killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.staging import file_sha256, task_directory

from .document_columns import read_columns, text_bytes, text_ends
from .document_fields import InexactDocuments
from .documents import document_path
from .executor import Executor, run_missing
from .failures import at
from .shards import ShardWriter, token_dtype
from .tokenizer import Tokenizer
from .zstd import decompress, frame_sizes

_TASK_BYTES = 1 << 22
_EXAMPLES = 3
_TOKENS_FILE, _LENGTHS_FILE, _REPORT_FILE = "tokens.bin", "lengths.bin", "report.json"


@dataclass
class EncodedChunk:
    """Some consecutive documents of one shard, encoded."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    num_bytes: int
    not_exact: list[tuple[str, str, str]]
    """Documents that cannot be restored exactly from their tokens: id, cause, and what is lost or changed."""
    control_text: int = 0
    """Documents whose text contains a control piece or turn marker, spelled out: it is encoded as any other text."""


@dataclass
class ShardCount:
    """What one shard holds; the last two count documents, as defined in `EncodedChunk`."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    not_exact: int = 0
    control_text: int = 0


@dataclass(frozen=True)
class _Stretch:
    """Whole frames of one shard's documents: their first byte in the file and their size in bytes."""

    shard: tuple[str, str]
    start: int
    size: int


@dataclass(frozen=True)
class _Task:
    """Stretches to encode in order, the tokenizer of the run, and the output directory."""

    documents: Path
    stretches: list[_Stretch]
    tokenizer: Path
    tokenizer_sha256: str
    output: Path


def tokenise_documents(
    directory: Path,
    shards: list[tuple[str, str]],
    tokenizer_path: Path,
    work: Path,
    output: Path,
    executor: Executor,
    advance: Callable[[int, int], None],
) -> tuple[dict[tuple[str, str], ShardCount], dict[str, InexactDocuments]]:
    """Encode `shards`, pairs of source and split, from `directory` into `output`, with finished tasks in `work`.

    Returns their sizes, and why documents cannot be restored exactly: by cause, how many and the first of them.
    """
    sha256 = file_sha256(tokenizer_path)
    dtype = token_dtype(_tokenizer(tokenizer_path.absolute(), sha256).vocab_size)
    counts = {shard: ShardCount() for shard in shards}
    causes: dict[str, InexactDocuments] = {}
    writers: dict[tuple[str, str], ShardWriter] = {}
    tasks = [
        _Task(directory.absolute(), stretches, tokenizer_path.absolute(), sha256, work / f"{number:06}")
        for number, stretches in enumerate(_plan(directory, shards))
    ]
    try:
        for task, _ in zip(tasks, run_missing(executor, _encode_task, tasks), strict=True):
            for stretch, chunk in zip(task.stretches, _load(task.output, dtype), strict=True):
                shard = stretch.shard
                if shard not in writers:
                    # Stretches come shard by shard, so the previous shard is finished.
                    _close_all(writers)
                    stem = output / ".".join(shard)
                    stem.parent.mkdir(parents=True, exist_ok=True)
                    writers = {shard: ShardWriter(stem, dtype)}
                writers[shard].append(chunk.tokens, chunk.lengths)
                _count(shard, chunk, counts[shard], causes)
                advance(len(chunk.lengths), chunk.num_bytes)
    finally:
        _close_all(writers)
    return counts, dict(sorted(causes.items()))


def _count(shard: tuple[str, str], chunk: EncodedChunk, count: ShardCount, causes: dict[str, InexactDocuments]) -> None:
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


def _close_all(writers: dict[tuple[str, str], ShardWriter]) -> None:
    for writer in writers.values():
        writer.close()


def _plan(directory: Path, shards: list[tuple[str, str]]) -> Iterator[list[_Stretch]]:
    """The stretches of each task."""
    stretches: list[_Stretch] = []
    num_bytes = 0
    for shard in shards:
        start = end = 0
        for size, unpacked in frame_sizes(document_path(directory, *shard)):
            end += size
            num_bytes += unpacked
            if num_bytes >= _TASK_BYTES:
                yield [*stretches, _Stretch(shard, start, end - start)]
                stretches, num_bytes, start = [], 0, end
        if start < end:
            stretches.append(_Stretch(shard, start, end - start))
    if stretches:
        yield stretches


def _encode_task(task: _Task) -> None:
    tokenizer = _tokenizer(task.tokenizer, task.tokenizer_sha256)
    reports = []
    with (
        task_directory(task.output) as output,
        (output / _TOKENS_FILE).open("wb") as tokens,
        (output / _LENGTHS_FILE).open("wb") as lengths,
    ):
        for stretch in task.stretches:
            path = document_path(task.documents, *stretch.shard)
            with at(str(path)), path.open("rb") as file:
                file.seek(stretch.start)
                chunk = encode_chunk(decompress(file.read(stretch.size)), tokenizer)
            tokens.write(chunk.tokens.tobytes())
            lengths.write(chunk.lengths.tobytes())
            reports.append({**vars(chunk), "tokens": len(chunk.tokens), "lengths": len(chunk.lengths)})
        (output / _REPORT_FILE).write_text(json.dumps(reports), encoding="utf-8")


def _load(directory: Path, dtype: np.dtype[Any]) -> Iterator[EncodedChunk]:
    """What `_encode_task` wrote, one stretch at a time."""
    with (directory / _TOKENS_FILE).open("rb") as tokens, (directory / _LENGTHS_FILE).open("rb") as lengths:
        for report in json.loads((directory / _REPORT_FILE).read_text(encoding="utf-8")):
            report["tokens"] = np.fromfile(tokens, dtype, report["tokens"])
            report["lengths"] = np.fromfile(lengths, np.int32, report["lengths"])
            yield EncodedChunk(**report)


@lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    """A worker's tokenizer, loaded once; the digest distinguishes it from an earlier one at the same path."""
    return Tokenizer(path)


def encode_chunk(lines: bytes, tokenizer: Tokenizer) -> EncodedChunk:
    """Encode documents given as JSON lines, append EOS to each and check which can be restored exactly."""
    names, column = read_columns(lines, "id", "text")
    del lines  # the arrays made from one long document are several times its size
    texts: list[bytes] = column.cast("binary").to_pylist()
    ids, lengths = tokenizer.encode_batch(texts)
    not_exact = [
        (names[number].as_py(), *tokenizer.why_not_exact(texts[number].decode()))
        for number in _not_exact(ids, lengths, column, tokenizer)
    ]
    control_text = sum(map(tokenizer.spells_control, texts))
    ends = np.cumsum(lengths + 1)
    tokens = np.empty(len(ids) + len(texts), dtype=token_dtype(tokenizer.vocab_size))
    is_text = np.ones(len(tokens), dtype=np.bool_)
    is_text[ends - 1] = False
    tokens[is_text] = ids
    tokens[ends - 1] = tokenizer.eos_id
    return EncodedChunk(tokens, (lengths + 1).astype(np.int32), int(text_ends(column)[-1]), not_exact, control_text)


def _not_exact(ids: NDArray[Any], lengths: NDArray[np.int64], texts: Any, tokenizer: Tokenizer) -> list[int]:
    """Numbers of the documents in the column `texts` whose tokens do not decode to their text."""
    content, text_bounds = text_bytes(texts), text_ends(texts)
    id_bounds = np.concatenate([[0], np.cumsum(lengths)])
    if tokenizer.spelling.spells(ids, id_bounds, content, text_bounds):  # all of them, as a rule
        return []
    pairs = zip(pairwise(id_bounds), pairwise(text_bounds), strict=True)
    same = [tokenizer.decode_array(ids[slice(*mine)]) == content[slice(*theirs)].tobytes() for mine, theirs in pairs]
    return [number for number, is_same in enumerate(same) if not is_same]
