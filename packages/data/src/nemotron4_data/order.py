"""The order of training data as arithmetic: the source of sample j, how often it came before, the order of blocks.

Nothing here holds state or memory that grows with the run: the source of a sample, the number of earlier samples of
each source and the block at a position are functions of (seed, phase, index), each in O(log) or O(1).

Invariant: within a phase, `SourceSequence.counts_before(j)` is exactly the number of `i < j` with `source_of(i) ==
s`.

Source: Weyl's sequence with the golden ratio (Kuipers and Niederreiter, Uniform Distribution of Sequences, 1974,
section 2.3: discrepancy O(log n)); the floor sum is Euclid's algorithm on lattice points (Graham, Knuth and
Patashnik, Concrete Mathematics, section 3.5); the permutation is a Feistel network (Luby and Rackoff, 1988) with
cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, section 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

MODULUS = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15  # odd, and 2**64 divided by the golden ratio: successive multiples spread evenly
_MASK = MODULUS - 1
_FEISTEL_ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and names, the same on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def floor_sum(count: int, modulus: int, multiplier: int, offset: int) -> int:
    """Sum over i in [0, count) of (multiplier * i + offset) // modulus, all non-negative, in O(log modulus) steps."""
    total = 0
    while count > 0:
        quotient, multiplier = divmod(multiplier, modulus)
        total += quotient * (count * (count - 1) // 2)
        quotient, offset = divmod(offset, modulus)
        total += quotient * count
        # Reflect the remaining triangle: its columns become rows, which is Euclid's step on (modulus, multiplier).
        count, offset = divmod(multiplier * count + offset, modulus)
        modulus, multiplier = multiplier, modulus
    return total


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Non-negative weights as integers that sum to exactly 2**64; the rounding goes to the largest weight."""
    total = sum(Fraction(weight) for weight in weights)
    widths = [int(Fraction(weight) * MODULUS / total) for weight in weights]
    widths[max(range(len(widths)), key=widths.__getitem__)] += MODULUS - sum(widths)
    return widths


class SourceSequence:
    """The endless sequence of sources within one phase.

    Sample j lands at u_j = (GOLDEN * j + offset) mod 2**64 and belongs to the source whose interval of the cumulated
    weights holds u_j. `weights` maps indices of sources to weights; a weight that rounds to no interval takes no part.
    """

    def __init__(self, weights: Mapping[int, float], offset: int) -> None:
        indices = sorted(weights)
        self.offset = offset
        self.intervals: dict[int, tuple[int, int]] = {}
        start = 0
        for index, width in zip(indices, integer_weights([weights[index] for index in indices]), strict=True):
            if width:
                self.intervals[index] = (start, start + width)
                start += width
        assert start == MODULUS
        self._indices = np.array(list(self.intervals), dtype=np.int64)
        self._inner_bounds = np.array([end for _, end in self.intervals.values()][:-1], dtype=np.uint64)

    def sources_of(self, samples: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Index of the source of each sample, same shape as `samples`."""
        with np.errstate(over="ignore"):
            points = samples * np.uint64(GOLDEN) + np.uint64(self.offset)
        result: NDArray[np.int64] = self._indices[np.searchsorted(self._inner_bounds, points, side="right")]
        return result

    def count_before(self, source: int, sample: int) -> int:
        """How many of samples [0, sample) draw from `source`: exact, by two floor sums."""
        if source not in self.intervals or sample == 0:
            return 0
        start, end = self.intervals[source]
        # x mod m < c exactly when (x + m - c) // m == x // m; the x // m terms of both ends cancel.
        above_start = floor_sum(sample, MODULUS, GOLDEN, self.offset + MODULUS - start)
        above_end = floor_sum(sample, MODULUS, GOLDEN, self.offset + MODULUS - end)
        return above_start - above_end

    def counts_before(self, sample: int) -> dict[int, int]:
        """`count_before` for every source that takes part."""
        return {source: self.count_before(source, sample) for source in self.intervals}


class BlockPermutation:
    """A keyed permutation of range(size) with O(1) memory and random access."""

    def __init__(self, size: int, key: int) -> None:
        assert size >= 1
        self.size = size
        bits = max(2, (size - 1).bit_length())
        # Halves may differ by one bit, so that the domain is below 2 * size and a walk takes two steps on average.
        self._widths = (bits // 2, bits - bits // 2)
        self._keys = [_mix(key + (number + 1) * GOLDEN) for number in range(_FEISTEL_ROUNDS)]

    def __call__(self, index: int) -> int:
        """The image of `index`; 0 <= index < size."""
        assert 0 <= index < self.size
        while True:
            index = self._encrypt(index)
            if index < self.size:
                return index

    def _encrypt(self, index: int) -> int:
        low_bits, high_bits = self._widths
        low, high = index & ((1 << low_bits) - 1), index >> low_bits
        for number in range(0, _FEISTEL_ROUNDS, 2):
            high ^= _mix(low + self._keys[number]) & ((1 << high_bits) - 1)
            low ^= _mix(high + self._keys[number + 1]) & ((1 << low_bits) - 1)
        return high << low_bits | low


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), high bits folded down."""
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
