"""Token sequences to be scored, laid out so that what they share is computed once.

Sorted, sequences that begin alike are neighbours. Many that share a long beginning, as few-shot prompts do, get it as a
prefix, which is computed once and which their rows follow. A row holds sequences that begin alike, as the options of
a question do, as a tree: a token attends to those before it in its own sequences only, and its position is the one in
them. The head is applied where a token is scored, once for sequences that end in the same place.

Invariant: what is attended from a token is its sequence's beginning, whatever shares the row. The layout is a pure
function of the set of sequences and `batch_tokens`.

Shapes: P tokens of a prefix, N tokens of a batch without padding, R rows, S places where the head is applied, M pairs
of a place and a target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MIN_PREFIX = 32
"""Tokens; a shorter common beginning is left to rows."""
MIN_SAVED = 512
"""Tokens that a prefix must save over all its rows: it is computed by itself, which costs most where it is short."""
LONG_CONTEXT = 1_024
"""Tokens from which a context is a prefix even of a single row, so that rows, and the squares of masks, stay small."""
MAX_ROW = 768
"""Tokens of a row of several sequences: each attends to a mask as wide as the row."""
MIN_SHARED = 8
"""A row takes another sequence if they share one in so many of its tokens."""


@dataclass(frozen=True)
class ScoredSequence:
    """A sequence and the tokens in it whose probabilities are asked for."""

    token_ids: Ints
    """What the model reads: all but the last token."""
    target_ids: Ints
    """The last tokens, at least one and no more than `token_ids`: the one after each of the last of `token_ids`."""

    @property
    def num_context(self) -> int:
        """Leading tokens after which nothing is scored."""
        return len(self.token_ids) - len(self.target_ids)


@dataclass(frozen=True)
class Batch:
    """Rows that one forward pass computes, after a prefix that all share."""

    prefix_ids: Ints
    """P ids, which may be none."""
    token_ids: Ints
    """N ids, row after row."""
    positions: Ints
    """Of these tokens, counted from the beginning of their sequences, the prefix included."""
    parents: Ints
    """The place in its row of the token before each, -1 for one that follows the prefix."""
    row_lengths: Ints
    """R."""
    places: Ints
    """S of the N tokens after which something is scored, in ascending order."""
    pair_places: Ints
    """M, each an index of `places`, in ascending order."""
    pair_targets: Ints
    """M ids."""
    pair_sequences: Ints
    """M, each an index of `sequences`."""
    sequences: Ints
    """Indices of the sequences that the batch scores."""


def plan_batches(sequences: Sequence[ScoredSequence], batch_tokens: int) -> list[Batch]:
    """Batches of about `batch_tokens` tokens that score all sequences, those of one prefix one after another."""
    # Compared as bytes, big-endian, so that their order is that of the ids.
    keys = [sequence.token_ids.astype(">u4").tobytes() for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda index: (keys[index], sequences[index].target_ids.tolist()))
    questions = _questions(sequences, order)
    shared = [_common(a.context, b.context) for a, b in pairwise(questions)]
    batches: list[Batch] = []
    without_prefix: list[_Row] = []
    for begin, end, num_prefix in _runs(questions, shared):
        rows = _rows(sequences, questions[begin:end], num_prefix)
        if num_prefix:
            batches += _batches(rows, sequences, questions[begin].context[:num_prefix], batch_tokens)
        else:
            without_prefix += rows
    return batches + list(_batches(without_prefix, sequences, np.empty(0, np.int64), batch_tokens))


@dataclass(frozen=True)
class _Question:
    """Sequences with one context."""

    context: Ints
    members: list[int]


def _questions(sequences: Sequence[ScoredSequence], order: Sequence[int]) -> list[_Question]:
    questions: list[_Question] = []
    for index in order:
        sequence = sequences[index]
        context = sequence.token_ids[: sequence.num_context]
        if not questions or not np.array_equal(questions[-1].context, context):
            questions.append(_Question(context, []))
        questions[-1].members.append(index)
    return questions


def _runs(questions: Sequence[_Question], shared: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(begin, end, tokens of the prefix) of successive runs; one without a prefix is a single question or several."""
    begin = 0
    while begin < len(questions):
        end, num_prefix = begin + 1, len(questions[begin].context)
        # A run goes on while its prefix, which can only get shorter, saves as much as before.
        while end < len(questions):
            shorter = min(num_prefix, shared[end - 1])
            saved_before = (end - begin - 1) * num_prefix
            if shorter < MIN_PREFIX or (end - begin) * shorter < saved_before:
                break
            num_prefix, end = shorter, end + 1
        is_worth_it = (end - begin - 1) * num_prefix >= MIN_SAVED or num_prefix >= LONG_CONTEXT
        if not is_worth_it:
            num_prefix = 0
        yield begin, end, num_prefix
        begin = end


class _Row:
    """Sequences as a tree: `add` appends what the last one does not share with them."""

    def __init__(self, num_prefix: int) -> None:
        self.num_prefix = num_prefix
        self.token_ids: list[Ints] = []
        self.positions: list[Ints] = []
        self.parents: list[Ints] = []
        self.length = 0
        self.members: list[tuple[int, Ints]] = []
        """Each sequence and the places of its tokens in the row."""
        self._last = np.empty(0, np.int64)

    def fits(self, token_ids: Ints) -> bool:
        """Whether the sequence, given without the prefix, belongs here."""
        shared = _common(self._last, token_ids)
        return shared * MIN_SHARED >= len(token_ids) and self.length + len(token_ids) - shared <= MAX_ROW

    def add(self, index: int, token_ids: Ints) -> None:
        """Add a sequence, given without the prefix; those added before come before it in sorted order."""
        shared = _common(self._last, token_ids)
        path = self.members[-1][1][:shared] if self.members else np.empty(0, np.int64)
        new = np.arange(self.length, self.length + len(token_ids) - shared)
        if len(new):
            self.token_ids.append(token_ids[shared:])
            self.positions.append(np.arange(shared, len(token_ids)) + self.num_prefix)
            parents = new - 1
            parents[0] = path[-1] if shared else -1
            self.parents.append(parents)
        self.length += len(new)
        self.members.append((index, np.concatenate([path, new])))
        self._last = token_ids


def _rows(sequences: Sequence[ScoredSequence], questions: Sequence[_Question], num_prefix: int) -> list[_Row]:
    rows: list[_Row] = []
    for question in questions:
        for index in question.members:
            token_ids = sequences[index].token_ids[num_prefix:]
            if not rows or not rows[-1].fits(token_ids):
                rows.append(_Row(num_prefix))
            rows[-1].add(index, token_ids)
    return rows


def _batches(
    rows: Sequence[_Row], sequences: Sequence[ScoredSequence], prefix_ids: Ints, batch_tokens: int
) -> Iterator[Batch]:
    batch: list[_Row] = []
    num_tokens = 0
    for row in sorted(rows, key=lambda row: -row.length):
        if batch and num_tokens + row.length > batch_tokens:
            yield _batch(batch, sequences, prefix_ids)
            batch, num_tokens = [], 0
        batch.append(row)
        num_tokens += row.length
    if batch:
        yield _batch(batch, sequences, prefix_ids)


def _batch(rows: Sequence[_Row], sequences: Sequence[ScoredSequence], prefix_ids: Ints) -> Batch:
    places, targets, members = [], [], []
    indices: list[int] = []
    begin = 0
    for row in rows:
        for index, path in row.members:
            target_ids = sequences[index].target_ids
            places.append(path[len(path) - len(target_ids) :] + begin)
            targets.append(target_ids)
            members.append(np.full(len(target_ids), len(indices)))
            indices.append(index)
        begin += row.length
    all_places = np.concatenate(places)
    order = np.argsort(all_places, kind="stable")
    unique, pair_places = np.unique(all_places[order], return_inverse=True)
    return Batch(
        prefix_ids=prefix_ids,
        token_ids=np.concatenate([part for row in rows for part in row.token_ids]),
        positions=np.concatenate([part for row in rows for part in row.positions]),
        parents=np.concatenate([part for row in rows for part in row.parents]),
        row_lengths=np.array([row.length for row in rows]),
        places=unique,
        pair_places=pair_places,
        pair_targets=np.concatenate(targets)[order],
        pair_sequences=np.concatenate(members)[order],
        sequences=np.array(indices),
    )


def _common(a: Ints, b: Ints) -> int:
    """Tokens with which both begin."""
    size = min(len(a), len(b))
    differ = a[:size] != b[:size]
    return int(differ.argmax()) if differ.any() else size
