"""The order of training data as arithmetic: the source of sample j, how often it came before, the order of blocks.

Nothing here keeps state or memory that grows with the run: the source of a sample, the number of earlier samples of
each source and the block at a position are functions of (blend, seed, index), each in O(log).

Invariants: `SourceSequence.count_before(s, j)` is exactly the number of `i < j` whose source is `s`, and it differs by
less than two samples from the weight of `s` times `j`, for every j and all weights.

Source: a two-way split that gives one side round(n * share) of the first n is a Sturmian word (Lothaire, Algebraic
Combinatorics on Words, 2002, section 2.1) and never more than half a sample off; the tree of splits is Huffman's
(1952). The permutation is a Feistel network (Luby and Rackoff, 1988) with cycle walking (Black and Rogaway, "Ciphers
with Arbitrary Finite Domains", 2002, section 4).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

MAX_SAMPLES = 1 << 38
"""Most samples of one sequence: keeps the products of `_first_child_count` within 64 bits."""
_SHARE_BITS = 48
_LIMB_BITS = _SHARE_BITS // 2
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_WORD_MASK = (1 << 64) - 1
_KEY_STEP = 0x9E3779B97F4A7C15  # SplitMix64's: 2**64 divided by the golden ratio, odd
_FEISTEL_ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and names, the same on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class SourceSequence:
    """The endless sequence of sources under one blend: a tree of two-way splits with the sources as its leaves.

    Of the first n samples that reach an inner node, round(n * share) go to its first child and the rest to its second,
    so each is within 1/2 of its share of n. A leaf of weight w is then within 1/2 * sum(w / w_v) of its own share of
    all samples, over the nodes v on its path below the root. In a Huffman tree an inner node has at most 2/3 of its
    parent's weight, so inner nodes deviate by less than 3/2 and leaves by less than 2 samples, for any weights.

    `weights` maps indices of sources to non-negative weights; a source of weight 0 is never drawn.
    """

    def __init__(self, weights: Mapping[int, float]) -> None:
        exact = {source: Fraction(weight) for source, weight in sorted(weights.items()) if weight > 0}
        total = sum(exact.values(), Fraction(0))
        assert total > 0
        # Nodes are numbered: a source has its index, an inner node a number below 0. Ties go to the older node.
        heap = [(weight / total, age, source) for age, (source, weight) in enumerate(exact.items())]
        self._root = heap[0][2]
        self._children: dict[int, tuple[int, int, int]] = {}  # node: share of the first * 2**48, first, second
        self._parents: dict[int, int] = {}
        node_weights = {source: weight for weight, _, source in heap}
        heapq.heapify(heap)
        while len(heap) > 1:
            (light, _, first), (heavy, _, second) = heapq.heappop(heap), heapq.heappop(heap)
            self._root = -1 - len(self._children)
            share = int((light / (light + heavy)) * (1 << _SHARE_BITS) + Fraction(1, 2))
            self._children[self._root] = (share, first, second)
            self._parents |= {first: self._root, second: self._root}
            node_weights[self._root] = light + heavy
            heapq.heappush(heap, (light + heavy, len(exact) + len(self._children), self._root))
        self.max_deviation = {source: self._deviation(source, node_weights) for source in exact}

    def _deviation(self, source: int, weights: Mapping[int, Fraction]) -> float:
        """The bound in the class docstring for one source, in samples."""
        node, total = source, Fraction(0)
        while node != self._root:
            total += weights[source] / weights[node]
            node = self._parents[node]
        return float(total / 2)

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each sample, and how many earlier samples draw from that source; both shaped as `samples`."""
        assert not len(samples) or 0 <= samples.min() <= samples.max() < MAX_SAMPLES
        sources, earlier = np.empty_like(samples), np.empty_like(samples)
        pending = [(self._root, np.arange(len(samples)), samples)]
        while pending:
            node, rows, before = pending.pop()
            if node not in self._children:
                sources[rows], earlier[rows] = node, before
                continue
            share, first, second = self._children[node]
            before_first = _first_child_counts(before, share)
            goes_first = _first_child_counts(before + 1, share) > before_first
            for child, chosen, counts in (
                (first, goes_first, before_first),
                (second, ~goes_first, before - before_first),
            ):
                if chosen.any():
                    pending.append((child, rows[chosen], counts[chosen]))
        return sources, earlier

    def count_before(self, source: int, sample: int) -> int:
        """How many of samples [0, sample) draw from `source`; 0 for one that is never drawn."""
        if source != self._root and source not in self._parents:
            return 0
        path = [source]
        while path[-1] != self._root:
            path.append(self._parents[path[-1]])
        count = sample
        for parent, child in zip(path[:0:-1], path[-2::-1], strict=True):
            share, first, _ = self._children[parent]
            of_first = _first_child_count(count, share)
            count = of_first if child == first else count - of_first
        return count

    def counts_before(self, sample: int) -> dict[int, int]:
        """`count_before` for every source that is drawn."""
        return {source: self.count_before(source, sample) for source in self.max_deviation}


def _first_child_count(count: int, share: int) -> int:
    """Of the first `count` samples of a node, those that go to its first child: round(count * share / 2**48)."""
    assert 0 <= count <= MAX_SAMPLES
    return (count * share + (1 << (_SHARE_BITS - 1))) >> _SHARE_BITS


def _first_child_counts(counts: NDArray[np.int64], share: int) -> NDArray[np.int64]:
    """`_first_child_count` of many, in two limbs of 24 bits: a product of 38 and 48 bits does not fit in 64."""
    low = counts * (share & _LIMB_MASK) + (1 << (_SHARE_BITS - 1))
    result: NDArray[np.int64] = (counts * (share >> _LIMB_BITS) + (low >> _LIMB_BITS)) >> _LIMB_BITS
    return result


class BlockPermutation:
    """A keyed permutation of range(size) with O(1) memory and random access."""

    def __init__(self, size: int, key: int) -> None:
        assert size >= 1
        self.size = size
        bits = max(2, (size - 1).bit_length())
        # Halves may differ by one bit, so that the domain is below 2 * size and a walk takes two steps on average.
        self._widths = (bits // 2, bits - bits // 2)
        self._keys = [_mix(key + (number + 1) * _KEY_STEP) for number in range(_FEISTEL_ROUNDS)]

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
    value &= _WORD_MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD_MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD_MASK
    return value ^ (value >> 31)
