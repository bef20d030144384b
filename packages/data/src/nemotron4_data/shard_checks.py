"""Whether shards hold what a tokenizer made: ids in range, EOS at the end of each document, and its own text.

Every error begins with a name that the caller passes, so that users see the shard as they named it.

The rule for text: a tokenizer encodes the text that its tokens stand for to the same tokens, whatever the language.
Decoded by another tokenizer, they are pieces in a random order, which merge differently. The beginnings of some
documents, spread over the shard, are decoded and encoded again; a shard is rejected if fewer than half get the same
tokens. Measured on English, code, CJK and 50 other languages: with the right tokenizer, BPE or unigram, 80 % and more
do (all, if it does not normalise), with another BPE 0 to 57 %, mostly none. Nor do sampled tokens (BPE dropout).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from .shards import Shard
from .tokenizer import Tokenizer

_SCAN_TOKENS = 1 << 22
_SAMPLED_DOCUMENTS = 64
_SAMPLED_TOKENS = 256
_CUT_TOKENS = 16  # before a cut inside the document, tokens may differ
_LEAST_EXACT = 0.5


def check_ids(shard: Shard, name: str, vocab_size: int) -> None:
    """ValueError unless the index is complete and all token ids are in the vocabulary."""
    shard.check_index()
    for first in range(0, len(shard.tokens), _SCAN_TOKENS):
        part = shard.tokens[first : first + _SCAN_TOKENS]
        if part.min() < 0 or part.max() >= vocab_size:
            raise ValueError(
                f"{name}: token ids from {part.min()} to {part.max()}, outside the {vocab_size} pieces of its "
                f"tokenizer; it was made with another one"
            )


def without_end(shard: Shard, eos_id: int) -> NDArray[np.int64]:
    """The documents that do not end in EOS, including empty ones."""
    offsets = shard.offsets
    filled = np.flatnonzero(np.diff(offsets))
    ended = np.zeros(len(shard), dtype=bool)
    ended[filled] = shard.tokens[offsets[filled + 1] - 1] == eos_id
    return np.flatnonzero(~ended)


def check_end(shard: Shard, name: str, tokenizer: Tokenizer, way_out: str) -> None:
    """ValueError unless each document ends in EOS."""
    missing = without_end(shard, tokenizer.eos_id)
    if len(missing):
        document = int(missing[0])
        last = int(shard[document][-1]) if len(shard[document]) else None
        ending = "is empty" if last is None else f"ends in id {last} ({tokenizer.piece(last)!r})"
        raise ValueError(
            f"{name}: {len(missing):,} of {len(shard):,} documents do not end in the tokenizer's EOS, id "
            f"{tokenizer.eos_id} ({tokenizer.piece(tokenizer.eos_id)!r}); document {document} {ending}; {way_out}"
        )


def text_bytes(shard: Shard, tokenizer: Tokenizer) -> int:
    """The UTF-8 bytes that its tokens stand for."""
    return sum(
        int(tokenizer.num_bytes[shard.tokens[first : first + _SCAN_TOKENS]].sum())
        for first in range(0, len(shard.tokens), _SCAN_TOKENS)
    )


def check_text(shard: Shard, name: str, tokenizer: Tokenizer) -> None:
    """ValueError if its text, encoded again, shows that another tokenizer made the tokens."""
    judged = [document for document in _sampled(shard, tokenizer.eos_id) if document]
    wrong = [document for document in judged if not _comes_back(document, tokenizer)]
    if len(judged) - len(wrong) < _LEAST_EXACT * len(judged):
        raise ValueError(
            f"{name}: of {len(judged)} sampled documents {len(wrong)} get other tokens when their text is encoded "
            f"again, such as {tokenizer.decode(wrong[0])[:60]!r}; give the tokenizer.model that the shard was made "
            f"with, or check_text=false if its tokens were sampled (BPE dropout)"
        )


def _sampled(shard: Shard, eos_id: int) -> Iterator[list[int]]:
    for document in np.unique(np.linspace(0, len(shard) - 1, min(len(shard), _SAMPLED_DOCUMENTS)).astype(np.int64)):
        tokens = shard[document][: _SAMPLED_TOKENS + _CUT_TOKENS].tolist()
        yield tokens[:-1] if tokens and tokens[-1] == eos_id else tokens


def _comes_back(tokens: list[int], tokenizer: Tokenizer) -> bool:
    is_cut = len(tokens) > _SAMPLED_TOKENS
    seen = 0
    for is_control, run in groupby(tokens, tokenizer.is_control):
        # Text lies between control pieces; unknown pieces stand for no text that could be encoded again.
        part = [token for token in run if not is_control and token != tokenizer.unk_id]
        seen += len(part)
        again = tokenizer.encode(tokenizer.decode(part).removeprefix(tokenizer.prefix))
        compared = len(part) - (_CUT_TOKENS if is_cut else 0)
        if compared > 0 and again[:compared] != part[:compared]:
            return False
    return 2 * seen >= len(tokens)
