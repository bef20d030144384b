"""Prompt lookup: guesses at the next tokens from the text itself, without a draft model.

Invariant: guesses are what followed the latest earlier occurrence of the text's last 3 tokens, or else 2, or else 1. A
guess costs time in proportion to the tokens added since the last.
Source: Saxena, "Prompt lookup decoding", 2023 (github.com/apoorvumang/prompt-lookup-decoding).
"""

from collections.abc import Sequence

_LONGEST_MATCH = 3
_MISSES, _PAUSE_ROUNDS = 4, 32


class Lookup:
    """Guesses for one sequence, whose text only grows."""

    def __init__(self, max_guesses: int = 3) -> None:
        self._max_guesses = max_guesses
        self._following: dict[tuple[int, ...], int] = {}  # by some tokens: the position after their latest occurrence
        self._num_indexed = 0
        self._misses = self._pause = 0

    def propose(self, token_ids: Sequence[int]) -> list[int]:
        """At most max_guesses next tokens of the text, prompt included; [] without a match, and for a while after 4
        rounds in a row of which nothing was right.

        Where a match runs into the end of the text, it goes on with the guesses: after `a b a b` come `a b a`.
        """
        if self._pause:
            self._pause -= 1
            return []
        length = len(token_ids)
        for end in range(self._num_indexed + 1, length):
            for size in range(1, min(_LONGEST_MATCH, end) + 1):
                self._following[tuple(token_ids[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, length - 1)
        for size in range(min(_LONGEST_MATCH, length), 0, -1):
            begin = self._following.get(tuple(token_ids[length - size :]))
            if begin is not None:
                known = list(token_ids[begin : begin + self._max_guesses])
                return [known[number % len(known)] for number in range(self._max_guesses)]
        return []

    def accepted(self, num_proposed: int, num_accepted: int) -> None:
        """Tell how many of the last guesses were right."""
        if num_proposed == 0:
            return
        self._misses = 0 if num_accepted else self._misses + 1
        if self._misses == _MISSES:
            self._misses, self._pause = 0, _PAUSE_ROUNDS
