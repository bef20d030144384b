"""Training samples as a pure function of (corpus, timeline, seed, sample index).

A timeline is a list of phases; sample n belongs to one phase and, there, to one source (`order.SourceSequence`). Each
source is one endless stream of tokens that all phases share: epoch after epoch, each a fresh permutation of its blocks
of `shuffle_block_tokens` tokens with the short tail block last. A sample reads the next `sequence_length` positions.

Invariant: read in order, the samples of a source cover each (input, target) pair of its epoch exactly once before the
next epoch begins, whatever the blend, batch size, sequence length, number of ranks or restarts.

Shapes: B samples of one call, T tokens of a sample.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .order import BlockPermutation, SourceSequence, derive_key

_DIGEST_CHUNK_SAMPLES = 1 << 16
_ENTRY = np.dtype([("source", "<i4"), ("position", "<i8")])


class TrainTokens(Protocol):
    """What a stream needs of a corpus; `Corpus` is one."""

    @property
    def num_train_tokens(self) -> dict[str, int]:
        """Tokens of each source's training split."""

    def train(self, source: str) -> NDArray[Any]:
        """The tokens of one source, one dimension."""


@dataclass(kw_only=True)
class StreamPhase:
    """One phase: `num_samples` samples of `sequence_length` tokens, sources drawn by `weights` (summing to 1)."""

    num_samples: int
    sequence_length: int
    weights: dict[str, float]

    def __post_init__(self) -> None:
        for name, value in (("num_samples", self.num_samples), ("sequence_length", self.sequence_length)):
            if value < 1:
                raise ValueError(f"phase {name} ({value}) must be at least 1")
        wrong = {source: weight for source, weight in self.weights.items() if not 0 <= weight <= 1}
        if wrong or abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError(
                f"phase weights must lie in [0, 1] and sum to 1, but sum to {sum(self.weights.values()):.9g}"
                f"{f' with {wrong}' if wrong else ''}: correct the blend"
            )


@dataclass(frozen=True)
class SampleBatch:
    """Samples of one call: inputs_BT and targets_BT (int64 token ids), sources_B (int16 into `source_names`)."""

    inputs_BT: NDArray[np.int64]  # noqa: N815 (shapes in names)
    targets_BT: NDArray[np.int64]  # noqa: N815
    sources_B: NDArray[np.int16]  # noqa: N815


class TokenStream:
    """Random access to the samples of a timeline. Reading needs no state: `read([n])` is the same at any time."""

    def __init__(self, corpus: TrainTokens, phases: list[StreamPhase], seed: int, shuffle_block_tokens: int) -> None:
        """Raise ValueError for an unknown source, one with fewer than 2 tokens, or a timeline that is empty."""
        if not phases:
            raise ValueError("the timeline has no phase: give it at least one")
        if shuffle_block_tokens < 1:
            raise ValueError(f"shuffle_block_tokens ({shuffle_block_tokens}) must be at least 1")
        self.phases = phases
        self.seed = seed
        self.shuffle_block_tokens = shuffle_block_tokens
        sizes = corpus.num_train_tokens
        self.source_names = sorted(sizes)
        self._sizes = [sizes[name] for name in self.source_names]
        self._tokens: dict[int, NDArray[Any]] = {}
        self._corpus = corpus
        self._sequences: list[SourceSequence] = []
        self._first_samples = [0]
        self._start_positions: list[dict[int, int]] = [dict.fromkeys(range(len(self.source_names)), 0)]
        for number, phase in enumerate(phases):
            self._append(number, phase)

    def _append(self, number: int, phase: StreamPhase) -> None:
        sequence = SourceSequence(self._indexed(phase.weights), derive_key(self.seed, "phase", number))
        positions = dict(self._start_positions[-1])
        for source, count in sequence.counts_before(phase.num_samples).items():
            positions[source] += count * phase.sequence_length
        self._sequences.append(sequence)
        self._first_samples.append(self._first_samples[-1] + phase.num_samples)
        self._start_positions.append(positions)

    def _indexed(self, weights: Mapping[str, float]) -> dict[int, float]:
        index_of = {name: index for index, name in enumerate(self.source_names)}
        indexed = {}
        for source, weight in weights.items():
            if weight == 0:
                continue
            if source not in index_of:
                raise ValueError(
                    f"source {source!r} has a weight but no training tokens in this corpus: "
                    f"remove it from the blend or prepare a corpus that has it"
                )
            if self._sizes[index_of[source]] < 2:
                raise ValueError(
                    f"source {source!r} has {self._sizes[index_of[source]]} training token(s), fewer than the 2 that "
                    f"one (input, target) pair needs: give it weight 0 or more text"
                )
            indexed[index_of[source]] = weight
        return indexed

    @property
    def num_samples(self) -> int:
        """Samples of the whole timeline."""
        return self._first_samples[-1]

    def phase_of(self, sample: int) -> int:
        """Index of the phase that holds `sample`. ValueError when it is outside the timeline."""
        if not 0 <= sample < self.num_samples:
            raise ValueError(f"sample {sample} is outside the timeline of {self.num_samples} samples")
        return bisect_right(self._first_samples, sample) - 1

    def read(self, samples: Sequence[int]) -> SampleBatch:
        """Read samples of one phase, in the order given. ValueError for no sample, or samples of several phases."""
        if len(samples) == 0:
            raise ValueError("read needs at least one sample")
        number = self.phase_of(min(samples))
        if self.phase_of(max(samples)) != number:
            raise ValueError(f"samples {min(samples)} to {max(samples)} lie in several phases: read each phase apart")
        length = self.phases[number].sequence_length
        sources_B, positions_B = self._locate(number, samples)
        inputs_BT = np.empty((len(samples), length), dtype=np.int64)
        targets_BT = np.empty_like(inputs_BT)
        for row, (source, position) in enumerate(zip(sources_B.tolist(), positions_B, strict=True)):
            self._read_stream(source, position, inputs_BT[row], targets_BT[row])
        return SampleBatch(inputs_BT, targets_BT, sources_B.astype(np.int16))

    def _locate(self, number: int, samples: Sequence[int]) -> tuple[NDArray[np.int64], list[int]]:
        """Source and stream position of each sample of phase `number`."""
        sequence, first = self._sequences[number], self._first_samples[number]
        start, length = self._start_positions[number], self.phases[number].sequence_length
        local_B = [sample - first for sample in samples]
        sources_B = sequence.sources_of(np.array(local_B, dtype=np.uint64))
        positions = [
            start[source] + sequence.count_before(source, local) * length
            for source, local in zip(sources_B.tolist(), local_B, strict=True)
        ]
        return sources_B, positions

    def _read_stream(
        self, source: int, position: int, inputs_T: NDArray[np.int64], targets_T: NDArray[np.int64]
    ) -> None:
        """Fill one row from the endless stream of `source`, starting at `position`."""
        tokens, block = self._train(source), self.shuffle_block_tokens
        epoch_positions = self._sizes[source] - 1
        num_full_blocks = epoch_positions // block
        filled = 0
        while filled < len(inputs_T):
            epoch, within = divmod(position + filled, epoch_positions)
            slot, skip = divmod(within, block)
            if slot < num_full_blocks:
                key = derive_key(self.seed, self.source_names[source], epoch)
                slot, available = BlockPermutation(num_full_blocks, key)(slot), block - skip
            else:
                available = epoch_positions - within
            taken = min(available, len(inputs_T) - filled)
            begin = slot * block + skip
            inputs_T[filled : filled + taken] = tokens[begin : begin + taken]
            targets_T[filled : filled + taken] = tokens[begin + 1 : begin + 1 + taken]
            filled += taken

    def _train(self, source: int) -> NDArray[Any]:
        if source not in self._tokens:
            # A plain view: slicing the memmap subclass costs several times as much.
            self._tokens[source] = np.asarray(self._corpus.train(self.source_names[source]))
        return self._tokens[source]

    def positions(self, sample: int) -> dict[str, int]:
        """Tokens drawn from each source before `sample`; `sample` may equal `num_samples`."""
        if sample == self.num_samples:
            drawn = self._start_positions[-1]
        else:
            number = self.phase_of(sample)
            drawn = dict(self._start_positions[number])
            counts = self._sequences[number].counts_before(sample - self._first_samples[number])
            for source, count in counts.items():
                drawn[source] += count * self.phases[number].sequence_length
        return {name: drawn[index] for index, name in enumerate(self.source_names)}

    def epochs(self, sample: int) -> dict[str, float]:
        """Epochs of each source drawn before `sample`: 1.0 is every pair seen once."""
        positions = self.positions(sample)
        return {
            name: positions[name] / max(1, size - 1) for name, size in zip(self.source_names, self._sizes, strict=True)
        }

    def digest(self, first: int, last: int) -> str:
        """SHA-256 over the (source, position) of samples [first, last), with the names, seed and block they rest on."""
        if not 0 <= first <= last <= self.num_samples:
            raise ValueError(f"samples {first} to {last} are not a range of the timeline of {self.num_samples} samples")
        digest = hashlib.sha256(repr((self.source_names, self.seed, self.shuffle_block_tokens)).encode())
        for number, phase in enumerate(self.phases):
            phase_first, phase_last = self._first_samples[number], self._first_samples[number + 1]
            begin, end = max(first, phase_first), min(last, phase_last)
            if begin >= end:
                continue
            positions = self.positions(begin)
            next_position = np.array([positions[name] for name in self.source_names], dtype=np.int64)
            for chunk in range(begin, end, _DIGEST_CHUNK_SAMPLES):
                local = np.arange(chunk, min(chunk + _DIGEST_CHUNK_SAMPLES, end), dtype=np.uint64)
                sources = self._sequences[number].sources_of(local - np.uint64(phase_first))
                digest.update(_entries(sources, next_position, phase.sequence_length).tobytes())
        return digest.hexdigest()


def _entries(sources: NDArray[np.int64], next_position: NDArray[np.int64], length: int) -> NDArray[Any]:
    """(source, position) of consecutive samples; advances `next_position` past them."""
    entries = np.empty(len(sources), dtype=_ENTRY)
    entries["source"] = sources
    for source in np.unique(sources):
        chosen = np.flatnonzero(sources == source)
        entries["position"][chosen] = next_position[source] + length * np.arange(len(chosen))
        next_position[source] += length * len(chosen)
    return entries
