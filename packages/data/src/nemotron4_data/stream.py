"""Training samples as a pure function of (corpus, timeline, seed, sample index).

A timeline is a list of phases; consecutive phases with the same blend and sequence length form one stretch. Sample n
belongs to one stretch and, within it, to one source (`order.SourceSequence`). Each source is one endless stream of
tokens that all phases share: epoch after epoch, each a fresh permutation of its blocks of `shuffle_block_tokens` tokens
with the short tail block last. A sample reads the next `sequence_length` positions.

Invariants: read in order, the samples of a source cover each (input, target) pair of its epoch exactly once before the
next epoch begins, whatever the blend, batch size, sequence length, number of ranks or restarts. At every point of a
stretch each source is less than two samples away from the share that its weight gives it.

Shapes: B samples of one call, T tokens of a sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nemotron4_common.rules import require

from .order import MAX_SAMPLES, BlockPermutation, SourceSequence, derive_key

ENTRY = np.dtype([("source", "<i4"), ("position", "<i8")])
"""Where a sample is read from: index of its source in `source_names`, first position in that source's stream."""


class TrainTokens(Protocol):
    """What a stream needs from a corpus; `Corpus` provides it."""

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
            require(value >= 1, f"phase {name}", value, "must be at least 1")
        wrong = {source: weight for source, weight in self.weights.items() if not 0 <= weight <= 1}
        if wrong or abs(sum(self.weights.values()) - 1) > 1e-6:
            raise ValueError(
                f"phase weights: must lie in [0, 1] and sum to 1, but sum to {sum(self.weights.values()):.9g}"
                f"{f' with {wrong}' if wrong else ''}; correct the blend"
            )
        # So that phases compare equal exactly if they draw the same samples.
        self.weights = {source: weight for source, weight in sorted(self.weights.items()) if weight > 0}


@dataclass(frozen=True)
class SampleBatch:
    """Samples of one call: inputs_BT and targets_BT (int64 token ids), sources_B (int16 into `source_names`)."""

    inputs_BT: NDArray[np.int64]  # noqa: N815 (shapes in names)
    targets_BT: NDArray[np.int64]  # noqa: N815 (shapes in names)
    sources_B: NDArray[np.int16]  # noqa: N815 (shapes in names)


@dataclass(frozen=True)
class _Stretch:
    """Consecutive phases with one blend and sequence length; `starts` is each source's next position before them."""

    first_sample: int
    sequence_length: int
    sequence: SourceSequence
    starts: tuple[int, ...]

    def positions(self, sample: int) -> tuple[int, ...]:
        """Next position of each source before `sample` (of the whole timeline)."""
        counts = self.sequence.counts_before(sample - self.first_sample)
        return tuple(start + counts.get(source, 0) * self.sequence_length for source, start in enumerate(self.starts))


class TokenStream:
    """Random access to the samples of a timeline. Reading keeps no state: `read([n])` always returns the same."""

    def __init__(self, corpus: TrainTokens, phases: list[StreamPhase], seed: int, shuffle_block_tokens: int) -> None:
        """Raise ValueError for an unknown source, one with fewer than 2 tokens, or an empty timeline."""
        if not phases:
            raise ValueError("the timeline has no phase; give it at least one")
        require(shuffle_block_tokens >= 1, "shuffle_block_tokens", shuffle_block_tokens, "must be at least 1")
        self.phases = phases
        self.seed = seed
        self.shuffle_block_tokens = shuffle_block_tokens
        sizes = corpus.num_train_tokens
        self.source_names = sorted(sizes)
        self._sizes = [sizes[name] for name in self.source_names]
        self._tokens: dict[int, NDArray[Any]] = {}
        self._permutations: dict[int, tuple[int, BlockPermutation]] = {}
        self._corpus = corpus
        self._stretches: list[_Stretch] = []
        self.num_samples = 0
        """Samples of the whole timeline."""
        self._end_positions = (0,) * len(sizes)
        for previous, phase in zip([None, *phases], phases, strict=False):
            self._append(previous, phase)
        self._first_samples = [stretch.first_sample for stretch in self._stretches]

    def _append(self, previous: StreamPhase | None, phase: StreamPhase) -> None:
        if previous is None or replace(previous, num_samples=phase.num_samples) != phase:
            sequence = SourceSequence(self._indexed(phase.weights))
            self._stretches.append(_Stretch(self.num_samples, phase.sequence_length, sequence, self._end_positions))
        self.num_samples += phase.num_samples
        if self.num_samples > MAX_SAMPLES:
            raise ValueError(f"the timeline has {self.num_samples} samples, more than {MAX_SAMPLES}; shorten it")
        self._end_positions = self._stretches[-1].positions(self.num_samples)

    def _indexed(self, weights: Mapping[str, float]) -> dict[int, float]:
        index_of = {name: index for index, name in enumerate(self.source_names)}
        indexed = {}
        for source, weight in weights.items():
            if source not in index_of:
                raise ValueError(
                    f"source ({source}): has a weight but no training tokens in this corpus; "
                    f"remove it from the blend or prepare a corpus that has it"
                )
            if self._sizes[index_of[source]] < 2:
                raise ValueError(
                    f"source ({source}): has {self._sizes[index_of[source]]} training token(s), fewer than the 2 that "
                    f"one (input, target) pair needs; give it weight 0 or more text"
                )
            indexed[index_of[source]] = weight
        return indexed

    def _stretch_of(self, sample: int) -> _Stretch:
        if not 0 <= sample < self.num_samples:
            raise ValueError(f"sample {sample} is outside the timeline of {self.num_samples} samples")
        return self._stretches[bisect_right(self._first_samples, sample) - 1]

    def read(self, samples: Sequence[int]) -> SampleBatch:
        """Read samples of one blend and length, in the given order. ValueError for none, or for a mix of several."""
        if len(samples) == 0:
            raise ValueError("read needs at least one sample")
        stretch = self._stretch_of(min(samples))
        if self._stretch_of(max(samples)) is not stretch:
            raise ValueError(
                f"samples {min(samples)} to {max(samples)} lie in several phases: read each phase separately"
            )
        entries = self._locate(stretch, np.array(samples, dtype=np.int64))
        inputs_BT = np.empty((len(samples), stretch.sequence_length), dtype=np.int64)
        targets_BT = np.empty_like(inputs_BT)
        for row, (source, position) in enumerate(entries.tolist()):
            self._read_stream(source, position, inputs_BT[row], targets_BT[row])
        return SampleBatch(inputs_BT, targets_BT, entries["source"].astype(np.int16))

    def entries(self, first: int, last: int) -> NDArray[Any]:
        """`ENTRY` of samples [first, last): with the corpus and the seed, all that determines their content."""
        if not 0 <= first <= last <= self.num_samples:
            raise ValueError(f"samples {first} to {last} are not a range of the timeline of {self.num_samples} samples")
        parts = [np.empty(0, dtype=ENTRY)]
        for stretch, end in zip(self._stretches, [*self._first_samples[1:], self.num_samples], strict=True):
            samples = np.arange(max(first, stretch.first_sample), min(last, end), dtype=np.int64)
            if len(samples):
                parts.append(self._locate(stretch, samples))
        return np.concatenate(parts)

    def _locate(self, stretch: _Stretch, samples_B: NDArray[np.int64]) -> NDArray[Any]:
        """`ENTRY` of each sample of a stretch."""
        sources_B, earlier_B = stretch.sequence.locate(samples_B - stretch.first_sample)
        entries_B = np.empty(len(samples_B), dtype=ENTRY)
        entries_B["source"] = sources_B
        entries_B["position"] = np.array(stretch.starts)[sources_B] + earlier_B * stretch.sequence_length
        return entries_B

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
                slot, available = self._permutation(source, epoch, num_full_blocks)(slot), block - skip
            else:
                available = epoch_positions - within
            taken = min(available, len(inputs_T) - filled)
            begin = slot * block + skip
            inputs_T[filled : filled + taken] = tokens[begin : begin + taken]
            targets_T[filled : filled + taken] = tokens[begin + 1 : begin + 1 + taken]
            filled += taken

    def _permutation(self, source: int, epoch: int, num_blocks: int) -> BlockPermutation:
        """Order of the full blocks of an epoch; each source's latest is cached, because making one costs a hash."""
        kept = self._permutations.get(source)
        if kept is None or kept[0] != epoch:
            kept = epoch, BlockPermutation(num_blocks, derive_key(self.seed, self.source_names[source], epoch))
            self._permutations[source] = kept
        return kept[1]

    def _train(self, source: int) -> NDArray[Any]:
        if source not in self._tokens:
            # A plain view: slicing the memmap subclass costs several times as much.
            self._tokens[source] = np.asarray(self._corpus.train(self.source_names[source]))
        return self._tokens[source]

    def positions(self, sample: int) -> dict[str, int]:
        """Tokens drawn from each source before `sample`; `sample` may equal `num_samples`."""
        at_end = sample == self.num_samples
        drawn = self._end_positions if at_end else self._stretch_of(sample).positions(sample)
        return dict(zip(self.source_names, drawn, strict=True))

    def epochs(self, sample: int) -> dict[str, float]:
        """Epochs of each source drawn before `sample`: 1.0 is every pair seen once."""
        positions = self.positions(sample)
        return {
            name: positions[name] / max(1, size - 1) for name, size in zip(self.source_names, self._sizes, strict=True)
        }

    def timeline(self, sample: int) -> list[StreamPhase]:
        """The phases up to `sample`, merged where blend and length stay the same: what its content depends on."""
        found: list[StreamPhase] = []
        first = 0
        for phase in self.phases:
            part = replace(phase, num_samples=min(phase.num_samples, sample - first)) if sample > first else None
            first += phase.num_samples
            if part is None:
                break
            if found and replace(found[-1], num_samples=part.num_samples) == part:
                part = replace(part, num_samples=found.pop().num_samples + part.num_samples)
            found.append(part)
        return found
