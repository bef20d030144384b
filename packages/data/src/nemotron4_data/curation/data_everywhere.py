"""Limits of "Data, Data Everywhere" (arXiv 2407.06380): documents of symbols, numbers, links or no prose are dropped.

Characters are counted as the authors' NeMo Curator does: letters, digits, line ends and `?!,.` are alphanumeric, so that
spaces are not; here the letters (with their combining marks) and digits of every script count. Words lie between
white space; languages written without spaces are judged by their characters alone.
"""

from __future__ import annotations

import re
from typing import Any

from .config import DataEverywhereConfig, rules_by_language
from .words import UNSPACED, alphanumeric_class, language_of

_URL = re.compile(r"https?://[\w$\-.&+!*(),%/:=?#~;@]+")
_DIGITS = re.compile(r"\d+")


class DataEverywhere:
    """Drop a document for the first limit that it passes; the reason is the name of its setting."""

    name = "data_everywhere"

    def __init__(self, config: DataEverywhereConfig) -> None:
        self.domains = config.domains
        self._config = config
        self._by_language = rules_by_language(config, config.languages)
        self._alphanumeric = re.compile(rf"[{alphanumeric_class()}\n?!,.]+")

    def __call__(self, document: dict[str, Any]) -> str | None:
        """Judge the text by the limits of its declared language."""
        text, language = document["text"], language_of(document)
        rules = self._by_language.get(language, self._config)
        num_characters = max(1, len(text))
        if 1 - _matched(self._alphanumeric, text) / num_characters > rules.max_non_alphanumeric:
            return "max_non_alphanumeric"
        if _matched(_DIGITS, text) / num_characters > rules.max_numbers:
            return "max_numbers"
        if _matched(_URL, text) / num_characters > rules.max_urls:
            return "max_urls"
        return None if language in UNSPACED else _judge_words(text.split(), rules)


def _matched(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _judge_words(words: list[str], rules: DataEverywhereConfig) -> str | None:
    if len(words) < max(1, rules.min_words):
        return "min_words"
    if len(words) > rules.max_words:
        return "max_words"
    mean_length = sum(map(len, words)) / len(words)
    if mean_length < rules.min_mean_word_length:
        return "min_mean_word_length"
    return "max_mean_word_length" if mean_length > rules.max_mean_word_length else None
