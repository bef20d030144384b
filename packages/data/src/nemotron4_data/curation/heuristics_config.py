"""Thresholds of the heuristics for prose, as published, and their overrides per language.

`languages` overrides numbers: `languages: {fi: {max_mean_word_length: 12}}`. Light on purpose: only the standard
library and the rules are imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from nemotron4_common.rules import require

from .config_checks import check_order, check_range, refuse_code

Rules = TypeVar("Rules")


@dataclass(kw_only=True)
class GopherQualityConfig:
    """Quality rules of Gopher (arXiv 2112.11446, appendix A.1)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    min_words: int = 50
    """Fewest words in a document."""
    max_words: int = 100_000
    """Most words in a document."""
    min_mean_word_length: float = 3.0
    """Least mean length of words in characters."""
    max_mean_word_length: float = 10.0
    """Greatest mean length of words in characters."""
    max_symbol_ratio: float = 0.1
    """Most hash signs per token, and most ellipses per token."""
    max_bullet_lines: float = 0.9
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines: float = 0.3
    """Greatest share of lines that end in an ellipsis."""
    min_alphabetic_words: float = 0.8
    """Least share of tokens with a letter in them."""
    min_stop_words: int = 2
    """Least number of different words of `stop_words`."""
    stop_words: dict[str, list[str]] = field(
        default_factory=lambda: {"en": ["the", "be", "to", "of", "and", "that", "have", "with"]}
    )
    """Words that connected text of a language has, by its code; a language without a list is not judged by them."""
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Thresholds that differ for single languages, by code."""

    def __post_init__(self) -> None:
        refuse_code("gopher_quality", self.domains, "these rules judge prose; code has curation.code")
        for name in ("max_symbol_ratio", "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words"):
            check_range("gopher_quality", self, name, 0, 1)
        check_order("gopher_quality", self, "min_words", "max_words")
        check_order("gopher_quality", self, "min_mean_word_length", "max_mean_word_length")
        _check_overrides("gopher_quality", self, self.languages)


@dataclass(kw_only=True)
class GopherRepetitionConfig:
    """Repetition rules of Gopher (arXiv 2112.11446, table A1)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    max_duplicate_lines: float = 0.3
    """Greatest share of lines that repeat an earlier one."""
    max_duplicate_paragraphs: float = 0.3
    """Greatest share of paragraphs that repeat an earlier one."""
    max_duplicate_line_characters: float = 0.2
    """Greatest share of the text in lines that repeat an earlier one."""
    max_duplicate_paragraph_characters: float = 0.2
    """Greatest share of the text in paragraphs that repeat an earlier one."""
    max_top_ngram: list[float] = field(default_factory=lambda: [0.20, 0.18, 0.16])
    """Greatest share of the text in the most frequent n-gram of words, n = 2, 3, 4."""
    max_duplicate_ngrams: list[float] = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10])
    """Greatest share of the text in n-grams of words that repeat an earlier one, n = 5 to 10."""
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Thresholds that differ for single languages, by code."""

    def __post_init__(self) -> None:
        refuse_code("gopher_repetition", self.domains, "code repeats lines by nature; code has curation.code")
        for name in ("lines", "paragraphs", "line_characters", "paragraph_characters"):
            check_range("gopher_repetition", self, f"max_duplicate_{name}", 0, 1)
        for name, length in (("max_top_ngram", 3), ("max_duplicate_ngrams", 6)):
            shares = getattr(self, name)
            valid = len(shares) == length and all(0 <= share <= 1 for share in shares)
            require(valid, f"curation.gopher_repetition.{name}", shares, f"must be {length} shares in [0, 1]")
        _check_overrides("gopher_repetition", self, self.languages)


@dataclass(kw_only=True)
class C4Config:
    """Rules of C4 (arXiv 1910.10683, section 2.2)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    min_sentences: int = 5
    """Fewest sentences in the good lines of a document."""
    min_words_per_line: int = 3
    """Fewest words in a good line."""
    max_word_length: int = 1000
    """Greatest length in characters of a word in a good line."""
    terminal_punctuation: bool = True
    """A good line ends in a terminal punctuation mark."""
    curly_brackets: bool = True
    """A curly bracket in a good line drops the document."""
    remove_lines: bool = True
    """As in C4, remove citation markers and lines that are not good; false judges them and keeps the text."""
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Thresholds that differ for single languages, by code."""

    def __post_init__(self) -> None:
        refuse_code("c4", self.domains, "these rules judge prose; code has curation.code")
        for name in ("min_sentences", "min_words_per_line"):
            check_range("c4", self, name, 0, float("inf"))
        check_range("c4", self, "max_word_length", 1, float("inf"))
        _check_overrides("c4", self, self.languages)


@dataclass(kw_only=True)
class DataEverywhereConfig:
    """Limits of "Data, Data Everywhere" (arXiv 2407.06380)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    max_non_alphanumeric: float = 0.25
    """Greatest share of characters other than letters, digits, line ends and `?!,.`; spaces count."""
    max_numbers: float = 0.15
    """Greatest share of characters that are digits."""
    max_urls: float = 0.2
    """Greatest share of characters that belong to URLs."""
    min_words: int = 50
    """Fewest words in a document."""
    max_words: int = 100_000
    """Most words in a document."""
    min_mean_word_length: float = 3.0
    """Least mean length of words in characters."""
    max_mean_word_length: float = 10.0
    """Greatest mean length of words in characters."""
    languages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Thresholds that differ for single languages, by code."""

    def __post_init__(self) -> None:
        refuse_code("data_everywhere", self.domains, "these rules judge prose; code has curation.code")
        for name in ("max_non_alphanumeric", "max_numbers", "max_urls"):
            check_range("data_everywhere", self, name, 0, 1)
        check_order("data_everywhere", self, "min_words", "max_words")
        check_order("data_everywhere", self, "min_mean_word_length", "max_mean_word_length")
        _check_overrides("data_everywhere", self, self.languages)


def rules_by_language(config: Rules, languages: dict[str, dict[str, Any]]) -> dict[str, Rules]:
    """The config of each language that has overrides."""
    return {
        language: replace(config, **overrides, languages={})  # type: ignore[type-var]  # each caller passes a dataclass
        for language, overrides in languages.items()
    }


def _check_overrides(step: str, config: Any, languages: dict[str, dict[str, Any]]) -> None:
    known = [field.name for field in fields(config) if isinstance(getattr(config, field.name), int | float)]
    for language, overrides in languages.items():
        for name, value in overrides.items():
            key = f"curation.{step}.languages.{language}"
            require(name in known, key, name, f"must be one of the thresholds {', '.join(known)}")
            require(isinstance(value, int | float), f"{key}.{name}", repr(value), "must be a number")
    try:
        rules_by_language(config, languages)
    except ValueError as error:
        raise ValueError(f"curation.{step}.languages: {error}") from None
