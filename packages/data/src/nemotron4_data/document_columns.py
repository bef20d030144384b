"""Documents by columns: fields of thousands of JSON lines read at once, without a Python object for each line.

Only for lines that this program wrote: one JSON object per line, the requested fields text or absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import open_lines

_CHUNK_BYTES = 1 << 22


def read_chunks(path: Path, num_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """Whole lines of a file with their newlines, about `num_bytes` at a time, or one longer line."""
    with open_lines(path) as file:
        held: list[bytes] = []
        while block := file.read(num_bytes):
            if end := block.rfind(b"\n") + 1:
                held.append(block[:end])
                yield b"".join(held)
                held.clear()
            if end < len(block):
                held.append(block[end:])
        if held:
            yield b"".join(held)


def read_columns(lines: bytes, *names: str) -> list[Any]:
    """The named fields of each line that is not blank, as Arrow arrays of text; null if absent."""
    import pyarrow as pa
    from pyarrow import json

    schema = pa.schema([(name, pa.string()) for name in names])
    table = json.read_json(
        pa.BufferReader(lines),
        # A single block, because no line may be longer than a block.
        read_options=json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    return [pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string()) for column in table]


def text_sizes(texts: Any) -> NDArray[np.int64]:
    """UTF-8 bytes of each text of a column."""
    return np.diff(text_ends(texts))


def text_ends(texts: Any) -> NDArray[np.int64]:
    """Where the texts of a column begin in `text_bytes`, and the end of the last."""
    return np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1).astype(np.int64)


def text_bytes(texts: Any) -> NDArray[np.uint8]:
    """The texts of a column, one after the other, in UTF-8."""
    return np.frombuffer(texts.buffers()[2], np.uint8)
