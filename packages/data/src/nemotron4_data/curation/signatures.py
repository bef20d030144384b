"""What deduplication knows about each document: one parquet file per work shard, one row per document.

Columns: shard, line (of non-blank lines, from 0), id, train (false for held-out), date (null where unusable),
hash_high and hash_low (BLAKE2b-128 of the unchanged UTF-8 text: no character is normalised, so that "exact" needs no
explanation; near duplicates catch the rest), bucket_0 ... (64-bit hash of each MinHash band, null for a text without
words; only with `near`).

Invariant: a file's name contains a digest of the shard's bytes and of all settings that its content depends on, so a
file that exists is complete and correct, even if the shards have changed since.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.staging import file_sha256, value_sha256, write_file

from ..document_columns import read_chunks, read_columns, text_bytes, text_ends
from ..failures import at
from .dedup_config import DedupConfig
from .shingles import Hashes, shingle_hashes

_FORMAT = 1
_SEED = 20240226  # of the MinHash permutations; if changed, raise _FORMAT, which is part of the file's name
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d.*)?)?", re.ASCII | re.DOTALL)
_BAND_FACTORS_SEED = 7


def bucket_columns(config: DedupConfig) -> list[str]:
    """Names of the band columns."""
    return [f"bucket_{band}" for band in range(config.bands)] if config.near else []


def sign_shard(task: tuple[int, Path], *, config: DedupConfig, folder: Path) -> Path:
    """The signature file of work shard number `task[0]`, written unless it exists."""
    shard, path = task
    settings = [_FORMAT, shard, file_sha256(path), config.near]
    if config.near:
        settings += [config.shingle_words, config.bands, config.rows]
    target = folder / f"signatures-{shard:05d}-{value_sha256(settings)[:16]}.parquet"
    if not target.exists():
        with at(str(path)):
            write_file(target, _signatures(shard, path, config))
    return target


def _signatures(shard: int, path: Path, config: DedupConfig) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("shard", pa.int32()), ("line", pa.int32()), ("id", pa.string()), ("train", pa.bool_())]
    fields += [("date", pa.string()), ("hash_high", pa.uint64()), ("hash_low", pa.uint64())]
    schema = pa.schema(fields + [(name, pa.uint64()) for name in bucket_columns(config)])
    content = BytesIO()
    line = 0
    # Hashes do not compress, and dictionaries of them would only cost memory.
    with pq.ParquetWriter(content, schema, compression="none", use_dictionary=False) as writer:
        for lines in read_chunks(path):
            table = pa.table(_columns(shard, line, lines, config), schema=schema)
            writer.write_table(table)
            line += len(table)
    return content.getvalue()


def _columns(shard: int, first_line: int, lines: bytes, config: DedupConfig) -> list[Any]:
    """The columns of the rows of some documents, given as JSON lines."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, splits, dates, texts = read_columns(lines, "id", "split", "date", "text")
    hashes = np.frombuffer(_digests(texts), ">u8").reshape(-1, 2).astype(np.uint64)
    columns = [
        pa.array(np.full(len(ids), shard, np.int32)),
        pa.array(np.arange(first_line, first_line + len(ids), dtype=np.int32)),
        ids,
        pc.fill_null(pc.not_equal(splits, "heldout"), True),
        pa.array(map(_usable_date, dates.to_pylist()), pa.string()) if dates.null_count < len(dates) else dates,
        *(pa.array(hashes[:, half]) for half in range(2)),
    ]
    if config.near:
        shingles = [shingle_hashes(text, config.shingle_words) for text in texts.to_pylist()]
        empty = np.array([not len(found) for found in shingles])
        buckets = band_hashes(shingles, config)
        columns += [pa.array(buckets[:, band], mask=empty) for band in range(config.bands)]
    return columns


def _digests(texts: Any) -> bytes:
    """BLAKE2b-128 of each text of a column, concatenated."""
    content, ends = memoryview(text_bytes(texts).data), text_ends(texts).tolist()
    return b"".join([blake2b(content[start:end], digest_size=16).digest() for start, end in pairwise(ends)])


def _usable_date(date: object) -> str | None:
    """An ISO 8601 date, which sorts as text; None for anything else, which cannot be ordered."""
    return date if isinstance(date, str) and _DATE.fullmatch(date) else None


def band_hashes(shingles: Iterable[Hashes], config: DedupConfig) -> NDArray[np.uint64]:
    """Hashes of shape (documents, bands): equal if all `rows` MinHash values of the band are equal."""
    # The executor decides how many cores are used; a second pool of threads would only compete with it.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    from rensa import RMinHash

    sets = list(shingles)
    offsets = np.cumsum([0, *(len(hashes) for hashes in sets)], dtype=np.uint64)
    flat = np.concatenate([*sets, np.empty(0, dtype=np.uint64)])
    num_values = config.bands * config.rows
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, num_values, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(sets), config.bands, config.rows)
    # Odd factors drawn once: sums of products modulo 2**64 collide for different rows with a chance of about 2**-64.
    factors = np.random.default_rng(_BAND_FACTORS_SEED).integers(1 << 63, size=config.rows, dtype=np.uint64)
    buckets: NDArray[np.uint64] = (digests * (2 * factors + 1)).sum(axis=2, dtype=np.uint64)
    return buckets
