"""What deduplication knows of each document: a parquet file a work shard, a row a document.

Columns: shard, line (of non-blank lines, from 0), id, train (false for held-out), date (null where unusable),
hash_high and hash_low (BLAKE2b-128 of the UTF-8 text as it stands: no character is normalised, so that "exact" needs no
explanation; near duplicates catch the rest), bucket_0 ... (64-bit hash of each MinHash band, null for a text without
words; only with `near`).

Invariant: a file's name holds a digest of the shard's bytes and of all settings that its content depends on, so a file
that exists is complete and right, whatever happened to the shards in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..documents import read_lines
from ..staging import file_sha256, value_sha256, write_file
from .dedup_config import DedupConfig
from .shingles import Hashes, shingle_hashes

_FORMAT = 1
_SEED = 20240226  # of the MinHash permutations; part of the file's name through _FORMAT
_BATCH_SHINGLES = 1 << 20
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d.*)?)?", re.ASCII | re.DOTALL)
_BAND_FACTORS_SEED = 7


def read_documents(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is not blank."""
    return enumerate(line for line in read_lines(path) if line.strip())


def bucket_columns(config: DedupConfig) -> list[str]:
    """Names of the columns of bands."""
    return [f"bucket_{band}" for band in range(config.bands)] if config.near else []


def sign_shard(task: tuple[int, Path], *, config: DedupConfig, folder: Path) -> Path:
    """The signature file of work shard number `task[0]`, written unless it exists."""
    shard, path = task
    settings = [_FORMAT, shard, file_sha256(path), config.near]
    if config.near:
        settings += [config.shingle_words, config.bands, config.rows]
    target = folder / f"signatures-{shard:05d}-{value_sha256(settings)[:16]}.parquet"
    if not target.exists():
        write_file(target, _signatures(shard, path, config))
    return target


def _signatures(shard: int, path: Path, config: DedupConfig) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("shard", pa.int32()), ("line", pa.int32()), ("id", pa.string()), ("train", pa.bool_())]
    fields += [("date", pa.string()), ("hash_high", pa.uint64()), ("hash_low", pa.uint64())]
    schema = pa.schema(fields + [(name, pa.uint64()) for name in bucket_columns(config)])
    content = BytesIO()
    # Hashes do not compress; dictionaries of them would only cost memory.
    with pq.ParquetWriter(content, schema, compression="none", use_dictionary=False) as writer:
        for rows, shingles in _batches(shard, path, config):
            columns = [
                pa.array(values, kind) for values, (_, kind) in zip(zip(*rows, strict=True), fields, strict=True)
            ]
            if config.near:
                empty = np.array([not len(hashes) for hashes in shingles])
                buckets = band_hashes(shingles, config)
                columns += [pa.array(buckets[:, band], mask=empty) for band in range(config.bands)]
            writer.write_table(pa.table(columns, schema=schema))
    return content.getvalue()


def _batches(shard: int, path: Path, config: DedupConfig) -> Iterator[tuple[list[tuple[Any, ...]], list[Hashes]]]:
    rows: list[tuple[Any, ...]] = []
    shingles: list[Hashes] = []
    pending = 0
    for line, content in read_documents(path):
        document = json.loads(content)
        text = document["text"]
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        high, low = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        is_train = document.get("split") != "heldout"
        rows.append((shard, line, document["id"], is_train, _usable_date(document.get("date")), high, low))
        if config.near:
            shingles.append(shingle_hashes(text, config.shingle_words))
            pending += len(shingles[-1])
        if pending >= _BATCH_SHINGLES or len(rows) >= 1 << 16:
            yield rows, shingles
            rows, shingles, pending = [], [], 0
    if rows:
        yield rows, shingles


def _usable_date(date: object) -> str | None:
    """An ISO 8601 date, which sorts as text; anything else does not tell which document is older."""
    return date if isinstance(date, str) and _DATE.fullmatch(date) else None


def band_hashes(shingles: Iterable[Hashes], config: DedupConfig) -> NDArray[np.uint64]:
    """(documents, bands): equal where all `rows` MinHash values of the band are."""
    # Whoever maps over shards decides how many cores are used; a second pool of threads would only get in the way.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    from rensa import RMinHash

    sets = list(shingles)
    offsets = np.cumsum([0, *(len(hashes) for hashes in sets)], dtype=np.uint64)
    flat = np.concatenate([*sets, np.empty(0, dtype=np.uint64)])
    num_values = config.bands * config.rows
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, num_values, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(sets), config.bands, config.rows)
    # Odd factors drawn once: a sum of products modulo 2**64 tells rows apart but for a chance of about 2**-64.
    factors = np.random.default_rng(_BAND_FACTORS_SEED).integers(1 << 63, size=config.rows, dtype=np.uint64)
    buckets: NDArray[np.uint64] = (digests * (2 * factors + 1)).sum(axis=2, dtype=np.uint64)
    return buckets
