"""Texts as sets of shingles: hashes of n consecutive words, which near-duplicate detection compares.

A word is a run of characters that are neither white space nor common punctuation, in lower case. In scripts written
without spaces (Han, kana, Thai, Lao, Tibetan, Burmese, Khmer) each character is a word, so a shingle is a character
n-gram there. A text of fewer than n words is one shingle; one without words has none.

Invariant: the hashes depend only on the text, not on machine, process or run. Everything is computed on arrays: a
word's hash is a difference of prefix sums of a polynomial in its characters (Karp and Rabin, 1987), mixed to 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_PIECE_CHARACTERS = 1 << 16  # characters of a long text at a time, so that its arrays stay in the processor's cache
_CHARACTER_POWER = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
_WORD_POWER = 0xD1342543DE82EF95
# Ranges of code points, the end not included.
_UNSPACED = (
    *((0x0E00, 0x1000), (0x1000, 0x10A0), (0x1780, 0x1800), (0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3021, 0x3030)),
    *((0x3031, 0x3100), (0x31F0, 0x3200), (0x3400, 0xA4D0), (0xF900, 0xFB00), (0xFF66, 0xFFA0), (0x1B000, 0x1B170)),
    (0x20000, 0x32000),
)
_SEPARATORS = (
    *((0x00, 0x30), (0x3A, 0x41), (0x5B, 0x5F), (0x60, 0x61), (0x7B, 0xAA), (0xAB, 0xB5), (0xB6, 0xBA), (0xBB, 0xC0)),
    *((0x1680, 0x1681), (0x2000, 0x2070), (0x3000, 0x3004), (0x3008, 0x3021), (0x3030, 0x3031)),
    *((0xFF01, 0xFF10), (0xFF1A, 0xFF21), (0xFF3B, 0xFF41), (0xFF5B, 0xFF66)),
)


class _Tables(NamedTuple):
    values: Hashes
    """By code point: its hash, 0 for a separator."""
    ascii_values: Hashes
    unspaced: NDArray[np.bool_]
    """By code point: whether it is a word on its own."""
    powers: Hashes
    inverse_powers: Hashes


def shingle_hashes(text: str, num_words: int) -> Hashes:
    """Hash of each run of `num_words` words, in order, including repeats; (0,) for a text without words."""
    words = _mix(np.concatenate([_word_hashes(piece) for piece in _pieces(text)]))
    length = min(num_words, len(words))
    if not length:
        return words
    count = len(words) - length + 1
    hashes = words[:count].copy()
    for offset in range(1, length):
        hashes *= np.uint64(_WORD_POWER)
        hashes += words[offset : offset + count]
    return hashes


def distinct(hashes: Hashes) -> Hashes:
    """The distinct hashes, sorted."""
    ordered = np.sort(hashes)  # np.unique takes four times as long on sets of this size
    return ordered[np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))] if len(ordered) else ordered


def jaccard(left: Hashes, right: Hashes) -> float:
    """Intersection over union of two sets as returned by `distinct`; 0 for two empty ones."""
    both = np.sort(np.concatenate((left, right)))
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(len(both) - shared, 1)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        limit = start + _PIECE_CHARACTERS
        space = max(text.rfind(" ", start, limit), text.rfind("\n", start, limit))
        end = limit if space < 0 else space + 1  # only a run of this length without a space is cut within a word
        yield text[start:end]
        start = end
    yield text[start:]


def _word_hashes(text: str) -> Hashes:
    tables = _tables()
    if text.isascii():
        values = tables.ascii_values[np.frombuffer(text.encode(), dtype=np.uint8)]
        single = None
    else:
        codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4")
        values = tables.values[codes]
        single = tables.unspaced[codes]
    # Lower case can be up to twice as long, so there are twice as many powers as a piece has characters.
    sums = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(values * tables.powers[: len(values)])))
    starts, ends = _word_bounds(values != 0, single)
    hashes: Hashes = (sums[ends] - sums[starts]) * tables.inverse_powers[starts]
    return hashes


def _word_bounds(
    inside: NDArray[np.bool_], single: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one past the last index of each word, given which characters are inside a word or are one."""
    padded = np.zeros(len(inside) + 2, dtype=np.bool_)
    padded[1:-1] = inside
    breaks = padded[1:] != padded[:-1]
    if single is None or not single.any():
        edges = np.flatnonzero(breaks)
        return edges[::2], edges[1::2]
    breaks[:-1] |= single
    breaks[1:] |= single
    starts = np.flatnonzero(breaks[:-1] & inside)
    ends = np.flatnonzero(breaks[1:] & inside) + 1
    return starts, ends


def _mix(hashes: Hashes) -> Hashes:
    """Spread every bit over all 64: the finaliser of SplitMix64 (Steele et al., 2014)."""
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    values = _mix(np.arange(1, 0x110001, dtype=np.uint64))
    for first, end in _SEPARATORS:
        values[first:end] = 0
    values[ord("A") : ord("Z") + 1] = values[ord("a") : ord("z") + 1]
    unspaced = np.zeros(0x110000, dtype=np.bool_)
    for first, end in _UNSPACED:
        unspaced[first:end] = True
    powers = _powers(_CHARACTER_POWER)
    return _Tables(values, values[:128].copy(), unspaced, powers, _powers(pow(_CHARACTER_POWER, -1, 1 << 64)))


def _powers(base: int) -> Hashes:
    factors = np.full(2 * _PIECE_CHARACTERS, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
