"""Gopher's quality rules (arXiv 2112.11446, appendix A.1): documents that are not connected prose are dropped.

Tokens are separated by white space; a word is a token with a letter or digit. Counts and lengths are of words; shares
are of tokens. Languages written without spaces are judged only by their lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from ..document_fields import Document
from .heuristics_config import GopherQualityConfig, rules_by_language
from .words import UNSPACED, language_of, stretches

_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")


class GopherQuality:
    """Drop a document for the first rule that it breaks; the reason is the name of its setting."""

    name = "gopher_quality"

    def __init__(self, config: GopherQualityConfig) -> None:
        self.domains = config.domains
        self._config = config
        self._by_language = rules_by_language(config, config.languages)
        self._stop_words = {language: frozenset(words) for language, words in config.stop_words.items()}

    def __call__(self, document: Document) -> str | None:
        """Judge the text by the rules of its declared language."""
        text, language = document["text"], language_of(document)
        rules = self._by_language.get(language, self._config)
        if language in UNSPACED:
            return _judge_lines(text, rules)
        tokens: Counter[str] = Counter()
        for stretch in stretches(text):
            tokens.update(stretch.split())
        return (
            _judge_words(tokens, rules)
            or _judge_symbols(text, tokens.total(), rules)
            or _judge_lines(text, rules)
            or _judge_letters(tokens, self._stop_words.get(language), rules)
        )


def _judge_words(tokens: Counter[str], rules: GopherQualityConfig) -> str | None:
    num_words = num_characters = 0
    for token, count in tokens.items():
        if token.isalpha() or any(map(str.isalnum, token)):
            num_words += count
            num_characters += count * len(token)
    if num_words < max(1, rules.min_words):
        return "min_words"
    if num_words > rules.max_words:
        return "max_words"
    if num_characters / num_words < rules.min_mean_word_length:
        return "min_mean_word_length"
    if num_characters / num_words > rules.max_mean_word_length:
        return "max_mean_word_length"
    return None


def _judge_symbols(text: str, num_tokens: int, rules: GopherQualityConfig) -> str | None:
    most = max(text.count("#"), sum(map(text.count, _ELLIPSES)))
    return "max_symbol_ratio" if most / num_tokens > rules.max_symbol_ratio else None


def _judge_lines(text: str, rules: GopherQualityConfig) -> str | None:
    lines = text.splitlines() or [""]
    if sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines) > rules.max_bullet_lines:
        return "max_bullet_lines"
    if sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines) > rules.max_ellipsis_lines:
        return "max_ellipsis_lines"
    return None


def _judge_letters(tokens: Counter[str], stop_words: Set[str] | None, rules: GopherQualityConfig) -> str | None:
    alphabetic = sum(count for token, count in tokens.items() if token.isalpha() or any(map(str.isalpha, token)))
    if alphabetic / tokens.total() < rules.min_alphabetic_words:
        return "min_alphabetic_words"
    if stop_words is not None and len(stop_words & tokens.keys()) < rules.min_stop_words:
        return "min_stop_words"
    return None
