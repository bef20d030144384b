"""Near duplicates: candidates from MinHash bands, verified by their true Jaccard similarity, decided in order of age.

Invariant: a document is dropped only if an older document *that is kept* is a verified near duplicate of it. So
similarity is not transitive: if B is like A, and C is like B but not like A, then B is dropped and C is kept.

A document is compared with the oldest of each of its buckets and with the few before it there, so the work is linear
even for a bucket that holds the whole corpus. If all the documents that it resembles were dropped, it is compared with
those kept instead of them. (MinHash and banding: Broder, 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", 3.4.)
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nemotron4_common.staging import partial_path, sync, write_file

from ..document_columns import read_chunks, read_columns
from ..executor import Executor
from .dedup_config import DedupConfig
from .shard_rows import rows_of_shard
from .shingles import Hashes, distinct, jaccard, shingle_hashes
from .signatures import bucket_columns

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PAIR = ("older", "younger")
_KEPT = ("age", "kept")
_NEIGHBOURS = 3  # how many documents before it in a bucket each one is compared with, besides the bucket's oldest
_MAX_ROUNDS = 16  # of comparing documents with those kept instead of their duplicates; two or three are usual
_PAIRS_IN_TASK = 1 << 15


def find_near_duplicates(
    connection: DuckDBPyConnection,
    shards: Sequence[Path],
    config: DedupConfig,
    stem: Path,
    scratch: Path,
    executor: Executor,
) -> None:
    """Fill the table near(age, kept) from members(age, bucket_0, ...) and documents(age, shard, line).

    The names of work files start with `stem`, which must be unique to the shards' content and the settings; `scratch`
    holds files that a later run does not need.
    """
    _find_candidates(connection, config)
    _store_shingles(connection, shards, config, stem, executor)
    connection.execute("CREATE TABLE compared (older BIGINT, younger BIGINT)")
    connection.execute("CREATE TABLE alike (older BIGINT, younger BIGINT)")
    for number in range(_MAX_ROUNDS):
        _compare_pending(connection, config, Path(f"{stem}-round{number:02d}"), stem, executor)
        _decide(connection, scratch)
        if not connection.execute("SELECT count(*) FROM pending").fetchall()[0][0]:
            break
    connection.execute("INSERT INTO near SELECT age, kept FROM decided")


def _find_candidates(connection: DuckDBPyConnection, config: DedupConfig) -> None:
    """Make the table pending(older, younger) of the pairs to compare first."""
    connection.execute("CREATE TABLE candidates (older BIGINT, younger BIGINT)")
    neighbours = ", ".join(f"lag(age, {distance}) OVER bucket" for distance in range(1, _NEIGHBOURS + 1))
    for column in bucket_columns(config):  # one band at a time, so that at most one band's rows spill
        connection.execute(
            f"""INSERT INTO candidates
            WITH crowded AS (SELECT {column} AS hash FROM members GROUP BY 1 HAVING count(*) > 1)
            SELECT older, age FROM (
                SELECT age, unnest(list_distinct([first_value(age) OVER bucket, {neighbours}])) AS older
                FROM members SEMI JOIN crowded ON {column} = hash
                WINDOW bucket AS (PARTITION BY {column} ORDER BY age)
            ) WHERE older < age"""
        )
    connection.execute("CREATE TABLE pending AS SELECT DISTINCT older, younger FROM candidates")
    connection.execute("DROP TABLE candidates")


def _store_shingles(
    connection: DuckDBPyConnection, shards: Sequence[Path], config: DedupConfig, stem: Path, executor: Executor
) -> None:
    """Make the table place(age, shard, first, size): where on disk the sets of the documents to compare are."""
    wanted = Path(f"{stem}-wanted.parquet")
    export(
        connection,
        """SELECT shard, line, age FROM documents SEMI JOIN
        (SELECT older AS wanted FROM pending UNION SELECT younger FROM pending) ON age = wanted ORDER BY shard, line""",
        wanted,
    )
    task = partial(_store_shard, words=config.shingle_words, wanted=wanted, stem=stem)
    places = [str(path) for path in executor.map(task, list(enumerate(shards)))]
    connection.execute("CREATE TABLE place AS SELECT * FROM read_parquet(?)", [places])


def _store_shard(task: tuple[int, Path], *, words: int, wanted: Path, stem: Path) -> Path:
    """Write the sets of a shard's wanted documents one after another, then the parquet file of their places."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shard, path = task
    index = Path(f"{stem}-places-{shard:05d}.parquet")
    if index.exists():
        return index
    rows = rows_of_shard(wanted, shard, ["line", "age"])
    ages = dict(zip(rows["line"].to_pylist(), rows["age"].to_pylist(), strict=True))
    sets, found = [np.empty(0, dtype="<u8")], []
    first = 0
    for lines in read_chunks(path) if ages else ():
        (texts,) = read_columns(lines, "text")
        for place in range(len(texts)):
            if first + place in ages:
                sets.append(distinct(shingle_hashes(texts[place].as_py(), words)))
                found.append(ages[first + place])
        first += len(texts)
    sizes = np.array([len(hashes) for hashes in sets], dtype=np.int64)
    write_file(_sets_path(stem, shard), np.concatenate(sets).astype("<u8").tobytes())
    columns = {"age": pa.array(found, pa.int64()), "shard": pa.array([shard] * len(found), pa.int32())}
    columns |= {"first": pa.array(np.cumsum(sizes)[:-1]), "size": pa.array(sizes[1:])}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    write_file(index, sink.getvalue().to_pybytes())
    return index


def _sets_path(stem: Path, shard: int) -> Path:
    return Path(f"{stem}-sets-{shard:05d}.bin")


def _compare_pending(
    connection: DuckDBPyConnection, config: DedupConfig, round_stem: Path, stem: Path, executor: Executor
) -> None:
    """Move the pairs of `pending` to `compared`, and those that reach the threshold to `alike`."""
    import pyarrow.parquet as pq

    pairs = Path(f"{round_stem}-pairs.parquet")
    sides = ", ".join(f"{side}.{column}" for side in ("o", "y") for column in ("shard", "first", "size"))
    export(
        connection,
        f"""SELECT older, younger, {sides} FROM pending JOIN place o ON o.age = older JOIN place y ON y.age = younger
        ORDER BY o.shard, y.shard, older, younger""",
        pairs,
    )
    tasks = range(pq.read_metadata(pairs).num_row_groups)
    task = partial(_compare, pairs=pairs, stem=stem, round_stem=round_stem, threshold=config.threshold)
    results = [str(path) for path in executor.map(task, tasks)]
    connection.execute("INSERT INTO compared SELECT older, younger FROM pending")
    if results:
        connection.execute("INSERT INTO alike SELECT older, younger FROM read_parquet(?)", [results])


def _compare(group: int, *, pairs: Path, stem: Path, round_stem: Path, threshold: float) -> Path:
    """Write the pairs of one row group of `pairs` whose similarity reaches the threshold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = Path(f"{round_stem}-similar-{group:05d}.parquet")
    if target.exists():
        return target
    with pq.ParquetFile(pairs) as file:
        columns = [column.to_pylist() for column in file.read_row_group(group, use_threads=False).columns]
    similar: list[tuple[int, int]] = []
    for shards, rows in groupby(zip(*columns, strict=True), key=itemgetter(2, 5)):
        with _sets_path(stem, shards[0]).open("rb") as left, _sets_path(stem, shards[1]).open("rb") as right:
            left_age, left_set = -1, np.empty(0, dtype=np.uint64)
            for older, younger, _, left_first, left_size, _, right_first, right_size in rows:
                # The ratio of the sizes bounds the similarity, without reading the sets.
                if min(left_size, right_size) < threshold * max(left_size, right_size):
                    continue
                if older != left_age:  # pairs with the same older document come together
                    left_age, left_set = older, _read_set(left, left_first, left_size)
                if jaccard(left_set, _read_set(right, right_first, right_size)) >= threshold:
                    similar.append((older, younger))
    table = pa.table({name: pa.array([pair[i] for pair in similar], pa.int64()) for i, name in enumerate(_PAIR)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_file(target, sink.getvalue().to_pybytes())
    return target


def _read_set(file: BinaryIO, first: int, size: int) -> Hashes:
    file.seek(8 * first)
    return np.frombuffer(file.read(8 * size), dtype="<u8")


def _decide(connection: DuckDBPyConnection, scratch: Path) -> None:
    """Make decided(age, kept) from all similar pairs, and pending: what to compare before that is final."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = connection.execute("SELECT count(*) FROM documents").fetchall()[0][0]
    # On disk, so that eight bytes per document need not fit in memory: 0 if kept, otherwise 1 + age of the kept one.
    # Its blocks are allocated first: writing to mapped memory on a full disk would kill the process by a signal.
    with (scratch / "kept_for.bin").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * count)
    kept_for = np.memmap(scratch / "kept_for.bin", dtype=np.int64, mode="r+", shape=(count,))
    decided, more = scratch / "decided.parquet", scratch / "pending.parquet"
    kept_schema, pair_schema = (pa.schema([(name, pa.int64()) for name in names]) for names in (_KEPT, _PAIR))
    with pq.ParquetWriter(decided, kept_schema) as drops, pq.ParquetWriter(more, pair_schema) as pairs:
        for similar in _similar_pairs(connection):
            dropped, unsure = [], []
            for younger, group in groupby(similar, key=itemgetter(0)):
                alike = [older for _, older in group]
                kept = next((older for older in alike if not kept_for[older]), None)
                if kept is None:
                    unsure += [(int(kept_for[older]) - 1, younger) for older in alike]
                else:
                    kept_for[younger] = 1 + kept
                    dropped.append((younger, kept))
            for writer, rows in ((drops, dropped), (pairs, unsure)):
                columns = [pa.array([row[i] for row in rows], pa.int64()) for i in range(2)]
                writer.write_table(pa.table(columns, schema=writer.schema))
    connection.execute("CREATE OR REPLACE TABLE decided AS SELECT * FROM read_parquet(?)", [str(decided)])
    connection.execute(
        """CREATE OR REPLACE TABLE pending AS SELECT DISTINCT older, younger FROM read_parquet(?)
        ANTI JOIN compared USING (older, younger)""",
        [str(more)],
    )


def _similar_pairs(connection: DuckDBPyConnection) -> Iterator[Iterator[tuple[int, int]]]:
    """Batches of (younger, older) in order of age; a document's pairs are never split between two batches."""
    rows: list[tuple[int, int]] = []
    for batch in connection.sql("SELECT younger, older FROM alike ORDER BY younger, older").to_arrow_reader(1 << 16):
        rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        first_of_last = bisect_left(rows, (rows[-1][0], -1)) if rows else 0
        yield iter(rows[:first_of_last])
        rows = rows[first_of_last:]
    yield iter(rows)


def export(connection: DuckDBPyConnection, query: str, target: Path, group_rows: int = _PAIRS_IN_TASK) -> None:
    """Write a query's rows to a parquet file unless it exists: earlier runs number their tasks by its row groups."""
    if target.exists():
        return
    partial_target = partial_path(target)
    name = str(partial_target).replace("'", "''")
    try:
        connection.execute(f"COPY ({query}) TO '{name}' (FORMAT parquet, ROW_GROUP_SIZE {group_rows})")
        sync(partial_target)
        partial_target.replace(target)
    except BaseException:
        partial_target.unlink(missing_ok=True)  # a full disk must not stay full
        raise
