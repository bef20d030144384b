"""Parquet by pyarrow: only the columns that documents need are read, a few rows at a time.

Invariant: an unreadable row is refused alone, and a damaged page ends only its row group; a value becomes the same text
on every machine, whichever libraries and time zones are installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ..documents import OTHER_FIELDS
from ..prepare_job import CorpusConfig
from .records import Record, Refusal
from .streams import Budget, Damaged, is_damage

_ROWS_AT_A_TIME = 64  # memory is at most this many times the longest document


def read_parquet(file: IO[bytes], budget: Budget, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record per row. Damaged if the file is not Parquet or has no column `corpus.columns.text`."""
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        wanted = dict.fromkeys((*config.columns.names, *OTHER_FIELDS))
        columns = [name for name in wanted if name in table.schema_arrow.names]
        if config.columns.text not in columns:
            has = ", ".join(table.schema_arrow.names)[:300]
            raise Damaged(f"no column {config.columns.text} (corpus.columns.text); it has {has}")
        groups = [_Group(table, number, columns) for number in range(table.num_row_groups)]
        for group in groups:
            budget.spend(group.unpacked_bytes)
    except Exception as error:  # a damaged file makes pyarrow raise errors of many kinds
        raise _as_damage(error) from error
    first = 1
    for group in groups:
        yield from group.read(first)
        first += group.num_rows


class _Group:
    """A row group, of which `columns` are read."""

    def __init__(self, table: Any, number: int, columns: list[str]) -> None:
        self._table, self._number, self._columns = table, number, columns
        facts = table.metadata.row_group(number)
        chunks = [facts.column(index) for index in range(facts.num_columns)]
        read = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        self.num_rows = max(0, facts.num_rows)
        self.unpacked_bytes = sum(max(0, chunk.total_uncompressed_size) for chunk in read)
        self._bytes = sum(max(0, chunk.total_compressed_size) for chunk in read)

    def read(self, first: int) -> Iterator[Record | Refusal]:
        """Its rows; the first is row `first` of the file."""
        done = 0
        try:
            for batch in self._table.iter_batches(_ROWS_AT_A_TIME, row_groups=[self._number], columns=self._columns):
                for row in range(batch.num_rows):
                    done += 1
                    yield _row(batch, row, f"row {first + done - 1}")
        except Exception as error:  # as above; `_as_damage` reraises what is not damage
            damage = _as_damage(error)
            unread = self._bytes - self._bytes * done // max(1, self.num_rows)
            detail = f"{damage} ({self.num_rows - done} of {self.num_rows} rows of row group {self._number} not read)"
            place = f"after row {first + done - 1}" if first + done > 1 else "after the beginning"
            yield Refusal(place, "damaged file", detail.encode(errors="backslashreplace"), (unread, self._bytes))


def _as_damage(error: Exception) -> Damaged:
    """pyarrow's error as damage of the file; reraises an error that is not damage."""
    if not isinstance(error, Damaged):
        if not is_damage(error):
            raise error
        return Damaged(f"{type(error).__name__}: {error}")
    return error


def _row(batch: Any, row: int, position: str) -> Record | Refusal:
    value = {}
    for name in batch.schema.names:
        try:
            value[name] = _value(batch.column(name)[row])
        except UnicodeDecodeError:
            return Refusal(position, "invalid UTF-8")
        except (ValueError, OverflowError, ArithmeticError, NotImplementedError, TypeError, LookupError) as error:
            detail = f"{name}: {type(error).__name__}: {error}"
            return Refusal(position, "value that cannot be read", detail.encode(errors="backslashreplace"))
    return Record(position, value)


def _value(cell: Any) -> Any:
    """A cell as a plain value; a point in time as ISO 8601, in UTC if it has a zone."""
    import pyarrow as pa

    kind = cell.type
    if pa.types.is_string(kind) or not cell.is_valid:
        return cell.as_py()
    if isinstance(cell, pa.DictionaryScalar | pa.ExtensionScalar):
        return _value(cell.value)
    if pa.types.is_timestamp(kind):
        # Not `as_py`, which needs pandas for nanoseconds, the zone's rules, and a year below 10000.
        whole, _, fraction = str(np.datetime64(cell.value, kind.unit)).partition(".")
        fraction = fraction.rstrip("0")
        return f"{whole}{'.' if fraction else ''}{fraction}{'Z' if kind.tz else ''}"
    if pa.types.is_date(kind):
        return str(np.datetime64(cell.value, "D" if pa.types.is_date32(kind) else "ms")).partition("T")[0]
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return cell.cast(pa.string()).as_py()
    if pa.types.is_struct(kind):
        return {key: _value(item) for key, item in cell.items()}
    if pa.types.is_nested(kind):
        return [_value(item) for item in cell.values]
    return cell.as_py()
