"""Parquet files sorted by their column `shard`: reads the rows of one shard without reading the others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any


def rows_of_shard(path: Path, shard: int, columns: list[str]) -> Any:
    """A table of these columns."""
    import pyarrow.compute as pc

    file, bounds = _open(path)
    groups = [group for group, (first, last) in enumerate(bounds) if first <= shard <= last]
    rows = file.read_row_groups(groups, columns=[*columns, "shard"], use_threads=False)
    return rows.filter(pc.equal(rows["shard"], shard))


@lru_cache(maxsize=1)
def _open(path: Path) -> tuple[Any, list[tuple[int, int]]]:
    """The file, and the first and the last shard of each of its row groups; read once for all shards."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("shard")
    groups = [file.metadata.row_group(group).column(column).statistics for group in range(file.num_row_groups)]
    return file, [(found.min, found.max) for found in groups]
