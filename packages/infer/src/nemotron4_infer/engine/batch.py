"""What one step computes.

A step is a list of spans: consecutive new tokens of one sequence. A decoding sequence has a span of one token (more
with prompt lookup), a prompt spans of whole tiles and, at its end, a part of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one sequence."""

    sequence: int
    """Key of the sequence, as given to `StepRunner.open`."""
    begin: int
    """Position of the first token: the sequence's cached tokens before this step."""
    token_ids: Sequence[int]
    """The tokens."""
    num_logits: int
    """Logits are wanted after this many of the last tokens: 0 in the middle of a prompt, 1 at its end and in decoding,
    all for prompt log-probabilities, and all for guessed tokens."""
    is_prefill: bool
    """Whether these are tiles of a prompt, which begin at multiples of `page_tokens` and are attended one by one."""


class StepRunner(Protocol):
    """The model and the memory of its keys and values, as the core sees them.

    The core decides which pages hold what; the runner never allocates pages.
    """

    page_tokens: int
    """Tokens of a page, which is also a tile: 64 on a CPU."""
    num_pages: int
    """Pages in the pool."""
    equal_bits: bool
    """Whether a span's logits have the same bits whatever the other spans are."""
    max_sequence_length: int
    """The model's context."""
    vocab_size: int
    """Columns of the logits."""
    is_paged: bool
    """Whether a sequence's keys and values are in pages of the pool; otherwise each has a slab of memory of its own.

    `num_pages` bounds the memory in both: with slabs the core sets aside ceil(capacity / page_tokens) pages of the pool
    for each slab, calls `release` for them, and never names them while the slab exists. A page of the pool therefore
    needs memory only from `save` to `release`."""

    def open(self, sequence: int, capacity: int, pages: Sequence[int], num_cached: int) -> None:
        """Make room for a sequence of at most `capacity` tokens.

        Its first num_cached tokens (whole pages) are in the first of `pages`. With a paged cache `pages` are all
        ceil(capacity / page_tokens) pages of the sequence; with slabs it keeps its keys and values in memory of its
        own, and only those of `pages` that hold cached tokens are copied there. If it raises, it leaves nothing behind.
        """

    def run(self, spans: Sequence[Span]) -> list[Tensor]:
        """Compute the spans; logits_TV, T = num_logits, of each span that wants any (T = 0 otherwise), on the device.

        A span's logits are valid until the next call. Without `equal_bits` the other spans may change their rounding.
        """

    def truncate(self, sequence: int, length: int) -> None:
        """Forget tokens from position `length` on: guesses that were wrong."""

    def save(self, sequence: int, page_index: int, page: int) -> None:
        """Make `page` of the pool hold the sequence's tokens page_index * page_tokens.., which have been computed.

        With a paged cache the page is the sequence's own, and there is nothing to do.
        """

    def close(self, sequence: int) -> None:
        """Forget the sequence; its pages stay as they are."""

    def release(self, pages: Sequence[int]) -> None:
        """These pages hold nothing that is needed; with slabs, give their memory back. With a paged cache it is not
        called."""
