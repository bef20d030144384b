"""Limits of "Data, Data Everywhere" (arXiv 2407.06380): documents of symbols, numbers, links or no prose are dropped.

Characters are counted as in the authors' NeMo Curator: letters, digits, line ends and `?!,.` are alphanumeric, but
spaces are not. Here the letters (with their combining marks) and digits of every script count, and indentation, which
is layout, is not counted at all. Words are separated by white space; languages written without spaces are judged only
by their characters.
"""

from __future__ import annotations

import re
from collections import Counter

from ..document_fields import Document
from .heuristics_config import DataEverywhereConfig, rules_by_language
from .words import UNSPACED, is_alphanumeric, language_of, word_lengths

_URL = re.compile(r"https?://[\w$\-.&+!*(),%/:=?#~;@]+")
_INDENTATION = re.compile(r"\n[ \t]+")
_ALSO_ALPHANUMERIC = frozenset("\n?!,.")


class DataEverywhere:
    """Drop a document for the first limit that it exceeds; the reason is the name of its setting."""

    name = "data_everywhere"

    def __init__(self, config: DataEverywhereConfig) -> None:
        self.domains = config.domains
        self._config = config
        self._by_language = rules_by_language(config, config.languages)

    def __call__(self, document: Document) -> str | None:
        """Judge the text by the limits of its declared language."""
        text, language = document["text"], language_of(document)
        rules = self._by_language.get(language, self._config)
        return _judge_characters(text, rules) or (
            None if language in UNSPACED else _judge_words(word_lengths(text), rules)
        )


def _judge_characters(text: str, rules: DataEverywhereConfig) -> str | None:
    counts = Counter(text)
    alphanumeric = sum(n for c, n in counts.items() if c in _ALSO_ALPHANUMERIC or is_alphanumeric(c))
    length = len(text) - sum(len(found) - 1 for found in _INDENTATION.findall(text))
    if (length - alphanumeric) / max(1, length) > rules.max_non_alphanumeric:
        return "max_non_alphanumeric"
    if sum(n for c, n in counts.items() if c.isdigit()) / max(1, len(text)) > rules.max_numbers:
        return "max_numbers"
    if sum(map(len, _URL.findall(text))) / max(1, len(text)) > rules.max_urls:
        return "max_urls"
    return None


def _judge_words(lengths: list[int], rules: DataEverywhereConfig) -> str | None:
    if len(lengths) < max(1, rules.min_words):
        return "min_words"
    if len(lengths) > rules.max_words:
        return "max_words"
    mean_length = sum(lengths) / len(lengths)
    if mean_length < rules.min_mean_word_length:
        return "min_mean_word_length"
    return "max_mean_word_length" if mean_length > rules.max_mean_word_length else None
