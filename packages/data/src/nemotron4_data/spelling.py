"""Whether ids spell given texts, byte for byte: the answer of decoding and comparing, in less time.

The lengths of pieces say where in the text each of them has to stand. There the text's bytes are compared with the
piece's, eight at a time as one integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IDS_AT_A_TIME = 1 << 15
_WORD = 8
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_WORD + 1)], np.uint64)
"""By number of bytes: the bits of a word that they fill."""


class Spelling:
    """The bytes that ids stand for."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces` by id."""
        self._sizes = np.array([len(piece) for piece in pieces], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._words = _words(np.frombuffer(b"".join(pieces), np.uint8))

    def spells(
        self, ids: NDArray[Any], id_bounds: NDArray[np.int64], text: NDArray[np.uint8], text_bounds: NDArray[np.int64]
    ) -> bool:
        """Whether the ids of each document, as pieces joined, are its text.

        Documents lie one after the other in `ids` and in the bytes `text`. The bounds, one more than documents, say
        where each begins, and where the last ends.
        """
        byte = bound = 0
        for first in range(0, len(ids), _IDS_AT_A_TIME):
            some = ids[first : first + _IDS_AT_A_TIME]
            sizes = self._sizes.take(some)
            places = np.concatenate([[0], np.cumsum(sizes)])
            next_byte = byte + int(places[-1])
            next_bound = int(np.searchsorted(id_bounds, first + len(some), "right"))
            found = places[id_bounds[bound:next_bound] - first] + byte
            if not np.array_equal(found, text_bounds[bound:next_bound]):
                return False
            if next_byte > len(text) or not self._stand_at(places[:-1], some, sizes, text[byte:next_byte]):
                return False
            byte, bound = next_byte, next_bound
        return byte == int(text_bounds[-1])

    def _stand_at(
        self, places: NDArray[np.int64], ids: NDArray[Any], sizes: NDArray[np.int64], text: NDArray[np.uint8]
    ) -> bool:
        """Whether the pieces `ids`, of `sizes` bytes, stand at `places` of `text`."""
        words, starts = _words(text), self._starts.take(ids)
        while len(places):
            differing = words.take(places)
            differing ^= self._words.take(starts)
            differing &= _MASKS.take(sizes, mode="clip")
            if differing.any():
                return False
            longer = np.flatnonzero(sizes > _WORD)
            places, starts, sizes = places[longer] + _WORD, starts[longer] + _WORD, sizes[longer] - _WORD
        return True


def _words(content: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """From each place of `content`, and from its end: the next eight bytes, with zeros beyond the end."""
    padded = np.concatenate([content, np.zeros(_WORD, np.uint8)])
    return np.ascontiguousarray(np.ndarray(len(content) + 1, "<u8", padded, strides=(1,)))
