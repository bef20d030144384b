"""Token shards on disk: Megatron-LM's indexed dataset, a `.bin` of token ids and an `.idx` of document boundaries.

Layout of `.idx`, little-endian: b"MMIDIDX\\0\\0", uint64 version 1, uint8 dtype code, uint64 number of sequences,
uint64 number of document indices, int32 sizes, int64 byte pointers, int64 document indices (the first sequence of each
document, and their number at the end). This program writes one sequence per document; other shards may have several.

Invariant: a shard opens only if both files have exactly the length that its header states.

Source: Megatron-LM, `megatron/core/datasets/indexed_dataset.py`, so that its tools read these shards and vice versa.
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
# Megatron's codes; 6 and 7 are floating point, which tokens never are.
_DTYPE_CODES: dict[int, np.dtype[Any]] = {
    code: np.dtype(name) for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
# Megatron's own limit: it leaves room below 65,536 for tokens added later.
_UINT16_VOCAB_LIMIT = 65_500


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype in which Megatron stores tokens of this vocabulary: uint16, or int32 from 65,500 pieces on."""
    return _DTYPE_CODES[8] if vocab_size < _UINT16_VOCAB_LIMIT else _DTYPE_CODES[4]


class ShardWriter:
    """Write one shard, document by document, to `<stem>.bin` and `<stem>.idx`. The caller stages and renames."""

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
        """Raise ValueError naming the file if a header or a length is not as the format requires."""
        self._index_path, bin_path = _with_suffix(stem, ".idx"), _with_suffix(stem, ".bin")
        length = self._index_path.stat().st_size
        with self._index_path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise ValueError(f"{self._index_path}: not a Megatron .idx file (it must begin with {MAGIC!r})")
        _, version, code, num_sequences, num_indices = _HEADER.unpack(header)
        if version != VERSION or code not in _DTYPE_CODES:
            raise ValueError(
                f"{self._index_path}: version {version}, dtype code {code}; only version 1 with one of "
                f"{', '.join(map(str, _DTYPE_CODES))} can be read"
            )
        if length != _HEADER.size + 12 * num_sequences + 8 * num_indices or num_indices < 1:
            raise ValueError(
                f"{self._index_path}: {length} bytes, which does not fit its header of {num_sequences} sequences"
            )
        # A plain array over the map: slicing the memmap subclass costs several times as much.
        index = np.asarray(np.memmap(self._index_path, mode="r"))[_HEADER.size :]
        self._sizes = index[: 4 * num_sequences].view("<i4")
        self._pointers = index[4 * num_sequences : 12 * num_sequences].view("<i8")
        self._first_sequences = index[12 * num_sequences :].view("<i8")
        dtype = _DTYPE_CODES[code]
        expected = int(self._pointers[-1]) + int(self._sizes[-1]) * dtype.itemsize if num_sequences else 0
        found = bin_path.stat().st_size
        if found != expected:
            raise ValueError(
                f"{bin_path}: {found} bytes, but its .idx says {expected}: truncated or changed; make or copy it again"
            )
        # An empty file cannot be mapped.
        self.tokens: NDArray[Any] = (
            np.asarray(np.memmap(bin_path, dtype=dtype, mode="r")) if expected else np.zeros(0, dtype=dtype)
        )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document starts in `tokens`, and the end of the last; reads the whole index."""
        ends = np.append(self._pointers // self.tokens.itemsize, len(self.tokens))
        offsets: NDArray[np.int64] = ends[self._first_sequences].astype(np.int64)
        return offsets

    def check_index(self) -> None:
        """ValueError unless sequences follow each other without a gap and documents cover them all in order."""
        bytes_before = np.cumsum(self._sizes, dtype=np.int64) - self._sizes
        if (self._sizes < 0).any() or not np.array_equal(self._pointers, bytes_before * self.tokens.itemsize):
            raise ValueError(f"{self._index_path}: its sequences do not lie one after the other")
        first = self._first_sequences
        if first[0] != 0 or first[-1] != len(self._sizes) or (np.diff(first) < 0).any():
            raise ValueError(f"{self._index_path}: its documents do not hold its {len(self._sizes)} sequences in order")

    def __len__(self) -> int:
        return len(self._first_sequences) - 1

    def __getitem__(self, document: int) -> NDArray[Any]:
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]


def _with_suffix(stem: Path, suffix: str) -> Path:
    # Path.with_suffix would eat the ".train" of "books.train".
    return stem.with_name(stem.name + suffix)
