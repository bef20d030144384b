"""Parquet by pyarrow: only the columns that become a document are read, a few rows at a time.

Invariant: a row that cannot be read is refused alone; a damaged page ends the file there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from ..documents import SIDE_FIELDS
from ..prepare_job import CorpusConfig
from .records import Record, Refusal
from .streams import Budget, Damaged, is_damage

_COLUMNS = ("id", "source", "split", *SIDE_FIELDS)
_ROWS_AT_A_TIME = 64  # times the longest document is what is held


def read_parquet(file: IO[bytes], budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record a row. Damaged when the file is no Parquet or has no column `corpus.text_column`."""
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        columns = [name for name in (config.text_column, *_COLUMNS) if name in table.schema_arrow.names]
        if config.text_column not in columns:
            raise Damaged(f"no column {config.text_column} (corpus.text_column)")
        for group in range(table.num_row_groups):
            budget.spend(max(0, table.metadata.row_group(group).total_byte_size))
        for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=columns):
            for row in range(batch.num_rows):
                number += 1
                yield _row(batch, row, f"row {number}")
    except Damaged:
        raise
    except Exception as error:  # a damaged file makes pyarrow raise errors of many kinds
        if not is_damage(error):
            raise
        raise Damaged(f"{type(error).__name__}: {error}") from error


def _row(batch: Any, row: int, position: str) -> Record | Refusal:
    try:
        return Record(position, {name: batch.column(name)[row].as_py() for name in batch.schema.names})
    except UnicodeDecodeError:
        return Refusal(position, "invalid UTF-8")
