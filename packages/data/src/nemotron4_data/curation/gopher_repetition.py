"""Gopher's repetition rules (arXiv 2112.11446, table A1): documents that repeat themselves are dropped.

Paragraphs are separated by blank lines, tokens by white space. Every share is of the characters of the whole text,
white space included, as in datatrove. Languages written without spaces are judged only by lines and paragraphs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter

from ..document_fields import Document
from .heuristics_config import GopherRepetitionConfig, rules_by_language
from .words import UNSPACED, language_of

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


class GopherRepetition:
    """Drop a document for the first rule that it breaks; the reason is its setting, and n for n-grams."""

    name = "gopher_repetition"

    def __init__(self, config: GopherRepetitionConfig) -> None:
        self.domains = config.domains
        self._config = config
        self._by_language = rules_by_language(config, config.languages)

    def __call__(self, document: Document) -> str | None:
        """Judge the text by the rules of its declared language."""
        text, language = document["text"], language_of(document)
        if not text:
            return None
        rules = self._by_language.get(language, self._config)
        reason = _judge_parts(text, rules)
        if reason or language in UNSPACED:
            return reason
        return _judge_ngrams(tuple(text.split()), len(text), rules)


def _judge_parts(text: str, rules: GopherRepetitionConfig) -> str | None:
    repeated, characters = _repeats(_PARAGRAPH_END.split(text.strip()))
    if repeated > rules.max_duplicate_paragraphs:
        return "max_duplicate_paragraphs"
    if characters / len(text) > rules.max_duplicate_paragraph_characters:
        return "max_duplicate_paragraph_characters"
    repeated, characters = _repeats(_LINE_END.split(text))
    if repeated > rules.max_duplicate_lines:
        return "max_duplicate_lines"
    if characters / len(text) > rules.max_duplicate_line_characters:
        return "max_duplicate_line_characters"
    return None


def _repeats(parts: Sequence[str]) -> tuple[float, int]:
    """Share of the parts that repeat an earlier one, and their characters."""
    counts = Counter(parts)
    characters = sum((count - 1) * len(part) for part, count in counts.items() if count > 1)
    return (len(parts) - len(counts)) / len(parts), characters


def _judge_ngrams(tokens: Sequence[str], num_characters: int, rules: GopherRepetitionConfig) -> str | None:
    longest = list(accumulate(sorted(map(len, tokens), reverse=True), initial=0))
    return _judge_top_ngrams(tokens, longest, num_characters, rules) or _judge_duplicate_ngrams(
        tokens, longest, num_characters, rules
    )


def _judge_top_ngrams(
    tokens: Sequence[str], longest: Sequence[int], num_characters: int, rules: GopherRepetitionConfig
) -> str | None:
    most = len(tokens)  # occurrences of any n-gram; a longer one is no more frequent
    for n, limit in enumerate(rules.max_top_ngram, start=2):
        if len(tokens) < n:
            break
        if most * (longest[n] + n - 1) / num_characters <= limit:
            continue
        ngrams = zip(*(tokens[i:] for i in range(n)), strict=False)
        ngram, most = max(Counter(ngrams).items(), key=itemgetter(1))  # the first of the most frequent
        if most * len(" ".join(ngram)) / num_characters > limit:
            return f"max_top_ngram (n={n})"
    return None


def _judge_duplicate_ngrams(
    tokens: Sequence[str], longest: Sequence[int], num_characters: int, rules: GopherRepetitionConfig
) -> str | None:
    positions: Sequence[int] = range(len(tokens))  # where n-grams that occur more than once begin
    repeated = len(tokens)  # how many of them repeat an earlier one; for longer n-grams it is no more
    for n, limit in enumerate(rules.max_duplicate_ngrams, start=5):
        # Counted without overlap, each holds at most as many characters as the n longest tokens.
        if longest[min(repeated * n, len(tokens))] / num_characters <= limit:
            continue
        ngrams = {i: tokens[i : i + n] for i in positions if i + n <= len(tokens)}
        counts = Counter(ngrams.values())
        repeated = len(ngrams) - len(counts)
        positions = [i for i, ngram in ngrams.items() if counts[ngram] > 1]
        if _duplicate_characters(ngrams, positions, n) / num_characters > limit:
            return f"max_duplicate_ngrams (n={n})"
    return None


def _duplicate_characters(ngrams: Mapping[int, Sequence[str]], positions: Iterable[int], n: int) -> int:
    """Characters in n-grams that repeat an earlier one, from left to right, none counted twice."""
    seen: set[Sequence[str]] = set()
    characters = end = 0
    for position in positions:
        if position < end:
            continue
        ngram = ngrams[position]
        if ngram in seen:
            characters += len("".join(ngram))
            end = position + n
        else:
            seen.add(ngram)
    return characters
