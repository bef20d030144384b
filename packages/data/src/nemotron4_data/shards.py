"""Token shards on disk: Megatron-LM's indexed dataset, a `.bin` of token ids and an `.idx` of document boundaries.

Layout of `.idx`, little-endian: b"MMIDIDX\\0\\0", uint64 version 1, uint8 dtype code, uint64 number of sequences,
uint64 number of document indices, int32 sizes, int64 byte pointers, int64 document indices. Here a sequence is a
document.

Invariant: a shard opens only if both files have exactly the length its header says.

Source: Megatron-LM, `megatron/core/datasets/indexed_dataset.py`, so that its tools read these shards and the reverse.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPE_CODES: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
# Megatron's own limit: it leaves room below 65,536 for tokens added later.
_UINT16_VOCAB_LIMIT = 65_500


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype that Megatron stores tokens of this vocabulary in: uint16, or int32 from 65,500 upward."""
    return _DTYPE_CODES[8] if vocab_size < _UINT16_VOCAB_LIMIT else _DTYPE_CODES[4]


class ShardWriter:
    """Write one shard, document after document, at `<stem>.bin` and `<stem>.idx`. The caller stages and renames."""

    def __init__(self, stem: Path, dtype: np.dtype[Any]) -> None:
        self._stem = stem
        self._dtype = dtype
        self._lengths: list[NDArray[np.int32]] = []
        self._bin = _with_suffix(stem, ".bin").open("wb")

    def append(self, tokens: NDArray[Any], lengths: NDArray[np.int32]) -> None:
        """Append documents: their tokens one after the other, and the length of each."""
        assert len(tokens) == int(lengths.sum())
        self._bin.write(tokens.astype(self._dtype, copy=False).tobytes())
        self._lengths.append(lengths)

    def close(self) -> None:
        """Write the index and close."""
        self._bin.close()
        sizes = np.concatenate([*self._lengths, np.zeros(0, dtype=np.int32)]).astype("<i4")
        pointers = (np.cumsum(sizes, dtype=np.int64) - sizes) * self._dtype.itemsize
        code = next(code for code, dtype in _DTYPE_CODES.items() if dtype == self._dtype)
        with _with_suffix(self._stem, ".idx").open("wb") as file:
            file.write(_HEADER.pack(MAGIC, VERSION, code, len(sizes), len(sizes) + 1))
            file.write(sizes.tobytes())
            file.write(pointers.astype("<i8").tobytes())
            file.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())


class Shard:
    """A shard mapped into memory: `tokens` (all documents, one dimension) and `offsets` (documents + 1)."""

    def __init__(self, stem: Path) -> None:
        """Raise ValueError naming the file when a header or a length is not what the format says."""
        index_path, bin_path = _with_suffix(stem, ".idx"), _with_suffix(stem, ".bin")
        index = index_path.read_bytes()
        if len(index) < _HEADER.size or not index.startswith(MAGIC):
            raise ValueError(f"{index_path}: not a Megatron .idx file (it must begin with {MAGIC!r})")
        _, version, code, num_documents, num_indices = _HEADER.unpack_from(index)
        if version != VERSION or code not in _DTYPE_CODES:
            raise ValueError(f"{index_path}: version {version}, dtype code {code}; only version 1 with 4 or 8 is read")
        if len(index) != _HEADER.size + 12 * num_documents + 8 * num_indices:
            raise ValueError(f"{index_path}: {len(index)} bytes, not what its header of {num_documents} documents says")
        dtype = _DTYPE_CODES[code]
        sizes = np.frombuffer(index, "<i4", num_documents, _HEADER.size)
        self.offsets: NDArray[np.int64] = np.concatenate(
            [np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)]
        )
        expected = int(self.offsets[-1]) * dtype.itemsize
        found = bin_path.stat().st_size
        if found != expected:
            raise ValueError(f"{bin_path}: {found} bytes where its .idx says {expected}: rerun `nemotron4 prepare`")
        # An empty file cannot be mapped.
        self.tokens: NDArray[Any] = np.memmap(bin_path, dtype=dtype, mode="r") if expected else np.zeros(0, dtype=dtype)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> NDArray[Any]:
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]


def _with_suffix(stem: Path, suffix: str) -> Path:
    # Path.with_suffix would eat the ".train" of "books.train".
    return stem.with_name(stem.name + suffix)
