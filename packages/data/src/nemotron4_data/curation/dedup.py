"""Deduplication of all documents at once: which lines of which work shards to drop, and for which kept document.

Order of age: held-out documents come first, then those with a date by their date, then the others; ties by shard and
line. A training document that repeats a held-out one is therefore dropped however old it is: held-out text must not be
trained on, and the training side can spare a document. Dated documents count as older than undated ones because "by
date if both have one, otherwise by place" is not transitive.

Invariants: the result depends only on the shards and the settings; a document that is named as kept is kept; a rerun
after a kill resumes from the files finished in `work`. Memory does not grow with the corpus: group-bys and joins over
all documents are done by DuckDB and spill to `work`, and everything else holds at most one shard's documents.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nemotron4_common.staging import value_sha256

from ..executor import Executor
from ..failures import of_database
from .dedup_config import DedupConfig
from .near_duplicates import export, find_near_duplicates
from .shard_rows import rows_of_shard
from .signatures import bucket_columns, sign_shard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Drop(NamedTuple):
    """Why a document is dropped, "exact" or "near", and the id of the document that is kept instead."""

    reason: str
    kept_id: str


class Drops(Sequence[dict[int, Drop]]):
    """One dict per shard from line number (of non-blank lines, from 0) to Drop, read on access."""

    def __init__(self, path: Path | None, num_shards: int) -> None:
        self._path = path
        self._num_shards = num_shards

    def __len__(self) -> int:
        return self._num_shards

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[shard] for shard in range(*index.indices(len(self)))]
        shard = range(len(self))[index]
        if self._path is None:
            return {}
        rows = rows_of_shard(self._path, shard, ["line", "reason", "kept_id"])
        columns = [rows[name].to_pylist() for name in ("line", "reason", "kept_id")]
        return {line: Drop(reason, kept_id) for line, reason, kept_id in zip(*columns, strict=True)}


def deduplicate(shards: Sequence[Path], config: DedupConfig, work: Path, executor: Executor) -> Drops:
    """Find the copies among the documents of all shards.

    `work` keeps what a later call can reuse; the returned `Drops` reads from it. The shards may be read by other
    processes or machines, which must see the same paths.
    """
    if not (config.exact or config.near) or not shards:
        return Drops(None, len(shards))
    work.mkdir(parents=True, exist_ok=True)
    sign = partial(sign_shard, config=config, folder=work)
    signatures = list(executor.map(sign, list(enumerate(shards))))
    settings = [config.exact, config.near, config.threshold]
    stem = work / value_sha256([*settings, *(path.name for path in signatures)])[:16]
    drops = Path(f"{stem}-drops.parquet")
    if not drops.exists():
        scratch = Path(f"{stem}-scratch")
        with _database(scratch, config) as connection:
            _rank(connection, signatures)
            _find_exact(connection, config)
            if config.near:
                _collect_members(connection, config)
                find_near_duplicates(connection, shards, config, stem, scratch, executor)
            _write_drops(connection, drops)
    return Drops(drops, len(shards))


@contextmanager
def _database(folder: Path, config: DedupConfig) -> Iterator[DuckDBPyConnection]:
    """An empty database in `folder`, which is removed afterwards."""
    import duckdb

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        with of_database(folder), duckdb.connect(str(folder / "tables.duckdb")) as connection:
            connection.execute("SET memory_limit = ?", [f"{config.memory_megabytes}MB"])
            connection.execute("SET temp_directory = ?", [str(folder / "spilled")])
            yield connection
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a full disk must not stay full


def _rank(connection: DuckDBPyConnection, signatures: Sequence[Path]) -> None:
    """Make documents(age, shard, line, hash_high, hash_low), with age 0 for the oldest."""
    connection.execute(f"CREATE VIEW signatures AS SELECT * FROM read_parquet({[str(path) for path in signatures]})")
    connection.execute(
        """CREATE TABLE documents AS SELECT
        row_number() OVER (ORDER BY train, date NULLS LAST, shard, line) - 1 AS age, shard, line, hash_high, hash_low
        FROM signatures"""
    )


def _find_exact(connection: DuckDBPyConnection, config: DedupConfig) -> None:
    """Make exact(age, kept)."""
    connection.execute(
        f"""CREATE TABLE exact AS
        WITH copied AS (
            SELECT hash_high, hash_low, min(age) AS kept FROM documents
            WHERE {config.exact} GROUP BY ALL HAVING count(*) > 1
        ) SELECT age, kept FROM documents JOIN copied USING (hash_high, hash_low) WHERE age > kept"""
    )
    connection.execute("CREATE TABLE near (age BIGINT, kept BIGINT)")


def _collect_members(connection: DuckDBPyConnection, config: DedupConfig) -> None:
    """Make members(age, bucket_0, ...) of the documents that have words and are not exact copies."""
    connection.execute(
        f"""CREATE TABLE members AS SELECT age, {", ".join(bucket_columns(config))}
        FROM signatures JOIN documents USING (shard, line) ANTI JOIN exact USING (age) WHERE bucket_0 IS NOT NULL"""
    )


def _write_drops(connection: DuckDBPyConnection, target: Path) -> None:
    """Write (shard, line, reason, kept_id). Exact copies of a near duplicate get its kept_id."""
    query = """WITH dropped AS (
            SELECT exact.age, 'exact' AS reason, coalesce(near.kept, exact.kept) AS kept
            FROM exact LEFT JOIN near ON near.age = exact.kept
            UNION ALL SELECT age, 'near', kept FROM near
        )
        SELECT d.shard, d.line, reason, id AS kept_id
        FROM dropped JOIN documents d USING (age) JOIN documents k ON k.age = kept
        JOIN signatures s ON s.shard = k.shard AND s.line = k.line
        ORDER BY d.shard, d.line"""
    export(connection, query, target, group_rows=20_480)
