"""Cutting documents into model-sized windows, and windows into batches.

Invariant: every token of a document is scored exactly once; tokens after the first window see at least
window - stride earlier tokens of their document; the first token sees only an end-of-sequence token, as in training,
where every document of a packed stream follows one.

Shapes: B windows, T longest window of the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Window:
    """Positions of a document that one forward pass covers: inputs begin..end-1 predict targets begin..end-1."""

    document: int
    """Index of the document."""
    begin: int
    """First target position in the window; its input is the token before it."""
    scored_from: int
    """First target position that counts; earlier ones were scored by the window before."""
    end: int
    """One past the last target position."""

    @property
    def length(self) -> int:
        """Tokens in the forward pass."""
        return self.end - self.begin


def document_windows(document: int, num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Windows of one document: the first as long as possible; each later one is full and ends `stride` tokens later."""
    scored_from, end = 0, min(window, num_tokens)
    while scored_from < num_tokens:
        yield Window(document, max(0, end - window), scored_from, end)
        scored_from, end = end, min(end + stride, num_tokens)


def batch_windows(windows: Sequence[Window], tokens_per_batch: int) -> Iterator[list[Window]]:
    """Batches of windows of similar length, the longest first, of at most `tokens_per_batch` tokens with padding.

    The order is a pure function of the windows. A window longer than the budget is a batch of its own.
    """
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: -w.length):
        if batch and (len(batch) + 1) * batch[0].length > tokens_per_batch:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def window_arrays(
    batch: Sequence[Window], documents: Sequence[Tokens], eos_id: int, length_multiple: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """inputs_BT, targets_BT and scored_BT (which targets count); padding is on the right and never scored.

    T is a multiple of `length_multiple`. Attention is causal, so padding cannot affect scored tokens.
    """
    longest = max(window.length for window in batch)
    shape = (len(batch), -(-longest // length_multiple) * length_multiple)
    inputs_BT, targets_BT = np.full(shape, eos_id, dtype=np.int64), np.full(shape, eos_id, dtype=np.int64)
    scored_BT = np.zeros(shape, dtype=np.bool_)
    for row, window in enumerate(batch):
        tokens = documents[window.document]
        targets_BT[row, : window.length] = tokens[window.begin : window.end]
        inputs_BT[row, 1 : window.length] = tokens[window.begin : window.end - 1]
        inputs_BT[row, 0] = tokens[window.begin - 1] if window.begin else eos_id
        scored_BT[row, window.scored_from - window.begin : window.length] = True
    return inputs_BT, targets_BT, scored_BT
