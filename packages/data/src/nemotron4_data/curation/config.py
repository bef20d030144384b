"""What curation does to documents: one dataclass a step, thresholds as published, every step off by default.

A step runs on the documents of its `domains` and is off while that list is empty. Heuristics for prose refuse the
domain `code`. `languages` overrides thresholds for single languages: `languages: {fi: {max_mean_word_length: 12}}`.
Light on purpose: nothing but the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

CODE_DOMAIN = "code"
Rules = TypeVar("Rules")


@dataclass(kw_only=True)
class RepairConfig:
    """Unicode repair by ftfy: mojibake only, neither style nor whitespace."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are repaired."""

    def __post_init__(self) -> None:
        _refuse_code("repair", self.domains, "string literals may hold broken text on purpose")


@dataclass(kw_only=True)
class LanguageConfig:
    """Identification of the language a document is really in, against the one it declares."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are checked; a document of `english` without a language declares English."""
    min_confidence: float = 0.5
    """Probability from which on a differing language drops the document, or names that of an undeclared one."""
    min_characters: int = 50
    """Shorter texts are not judged: too little to tell related languages apart."""
    max_characters: int = 4000
    """Only so much from the beginning is read."""

    def __post_init__(self) -> None:
        _refuse_code("language", self.domains, "its language is a programming language")
        _check_range("language", self, "min_confidence", 0, 1)
        _check_range("language", self, "min_characters", 1, float("inf"))
        _check_range("language", self, "max_characters", self.min_characters, float("inf"))


@dataclass(kw_only=True)
class GopherQualityConfig:
    """Quality rules of Gopher (arXiv 2112.11446, appendix A.1)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    min_words: int = 50
    """Fewest words."""
    max_words: int = 100_000
    """Most words."""
    min_mean_word_length: float = 3.0
    """Least mean length of words in characters."""
    max_mean_word_length: float = 10.0
    """Greatest mean length of words in characters."""
    max_symbol_ratio: float = 0.1
    """Most hash signs a token, and most ellipses a token."""
    max_bullet_lines: float = 0.9
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines: float = 0.3
    """Greatest share of lines that end in an ellipsis."""
    min_alphabetic_words: float = 0.8
    """Least share of tokens with a letter in them."""
    min_stop_words: int = 2
    """Fewest different words of `stop_words`."""
    stop_words: dict[str, list[str]] = field(
        default_factory=lambda: {"en": ["the", "be", "to", "of", "and", "that", "have", "with"]}
    )
    """Words that connected text of a language has; a language without a list is not asked."""
    languages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Thresholds of single languages."""

    def __post_init__(self) -> None:
        _refuse_code("gopher_quality", self.domains, "these rules judge prose; code has curation.code")
        for name in ("max_symbol_ratio", "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words"):
            _check_range("gopher_quality", self, name, 0, 1)
        _check_order("gopher_quality", self, "min_words", "max_words")
        _check_order("gopher_quality", self, "min_mean_word_length", "max_mean_word_length")
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
    languages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Thresholds of single languages."""

    def __post_init__(self) -> None:
        _refuse_code("gopher_repetition", self.domains, "code repeats lines by nature; code has curation.code")
        for name in ("lines", "paragraphs", "line_characters", "paragraph_characters"):
            _check_range("gopher_repetition", self, f"max_duplicate_{name}", 0, 1)
        for name, length in (("max_top_ngram", 3), ("max_duplicate_ngrams", 6)):
            shares = getattr(self, name)
            if len(shares) != length or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"curation.gopher_repetition.{name} ({shares}) must be {length} shares in [0, 1]")
        _check_overrides("gopher_repetition", self, self.languages)


@dataclass(kw_only=True)
class C4Config:
    """Rules of C4 (arXiv 1910.10683, section 2.2)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    min_sentences: int = 5
    """Fewest sentences in the good lines of a document."""
    min_words_per_line: int = 3
    """Fewest words of a good line."""
    max_word_length: int = 1000
    """Greatest length in characters of a word in a good line."""
    terminal_punctuation: bool = True
    """A good line ends in a terminal punctuation mark."""
    curly_brackets: bool = True
    """A curly bracket in a good line drops the document."""
    remove_lines: bool = True
    """As in C4, lines that are not good, and citation markers, leave the text; false judges and keeps the text."""
    languages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Thresholds of single languages."""

    def __post_init__(self) -> None:
        _refuse_code("c4", self.domains, "these rules judge prose; code has curation.code")
        for name in ("min_sentences", "min_words_per_line"):
            _check_range("c4", self, name, 0, float("inf"))
        _check_range("c4", self, "max_word_length", 1, float("inf"))
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
    """Fewest words."""
    max_words: int = 100_000
    """Most words."""
    min_mean_word_length: float = 3.0
    """Least mean length of words in characters."""
    max_mean_word_length: float = 10.0
    """Greatest mean length of words in characters."""
    languages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Thresholds of single languages."""

    def __post_init__(self) -> None:
        _refuse_code("data_everywhere", self.domains, "these rules judge prose; code has curation.code")
        for name in ("max_non_alphanumeric", "max_numbers", "max_urls"):
            _check_range("data_everywhere", self, name, 0, 1)
        _check_order("data_everywhere", self, "min_words", "max_words")
        _check_order("data_everywhere", self, "min_mean_word_length", "max_mean_word_length")
        _check_overrides("data_everywhere", self, self.languages)


@dataclass(kw_only=True)
class CodeConfig:
    """Rules for source code, as of Codex (arXiv 2107.03374, section 3.1) and StarCoder2 (arXiv 2402.19173, 3.1)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are judged."""
    max_line_length: int = 1000
    """Longest line in characters."""
    max_mean_line_length: float = 100.0
    """Greatest mean length of lines in characters."""
    min_alphanumeric: float = 0.25
    """Least share of characters that are letters or digits."""
    max_encoded: float = 0.5
    """Greatest share of the text in base64, lists of bytes and the like; a run of more than 1024 also drops."""
    max_digits: float = 0.5
    """Greatest share of digits among the characters that are not space: tables of numbers are data."""
    generated: bool = True
    """Drop files that say near their beginning that a program wrote them, and minified files by their path."""
    licenses: list[str] = field(default_factory=list)
    """SPDX identifiers that are kept; a document without `license` is kept, and an empty list keeps all."""

    def __post_init__(self) -> None:
        for name in ("min_alphanumeric", "max_encoded", "max_digits"):
            _check_range("code", self, name, 0, 1)
        for name in ("max_line_length", "max_mean_line_length"):
            _check_range("code", self, name, 1, float("inf"))


@dataclass(kw_only=True)
class PiiConfig:
    """Personal data that is replaced in the text."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are scrubbed."""
    placeholders: dict[str, str | None] = field(
        default_factory=lambda: {
            "email": "email@example.org",  # RFC 2606, RFC 5737 and RFC 3849 reserve these: nobody's, and found only once
            "ipv4": "192.0.2.1",
            "ipv6": "2001:db8::1",
            "phone": "[phone number]",
            "card": "[card number]",
            "iban": "[bank account]",
        }
    )
    """What stands in the place of each kind; null leaves a kind alone."""
    phone_regions: dict[str, str] = field(default_factory=lambda: {"en": "US"})
    """Region whose national way of writing phone numbers is read, by language; +… is read in every language."""

    def __post_init__(self) -> None:
        kinds = ("email", "ipv4", "ipv6", "phone", "card", "iban")
        for kind in self.placeholders:
            if kind not in kinds:
                raise ValueError(f"curation.pii.placeholders ({kind}) must be one of {', '.join(kinds)}")


@dataclass(kw_only=True)
class DecontaminationConfig:
    """Evaluation sets whose items must not be trained on (GPT-3's 13-grams, arXiv 2005.14165, appendix C)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are checked."""
    benchmarks: dict[str, list[str]] = field(default_factory=dict)
    """Files or globs of each benchmark: .jsonl, .json, .tsv or .txt, and these with .gz, .xz or .zst."""
    ngram_words: int = 13
    """A document that shares so many words in a row with an item is dropped; shorter items cannot be found."""

    def __post_init__(self) -> None:
        _check_range("decontamination", self, "ngram_words", 1, float("inf"))
        for name, files in self.benchmarks.items():
            if not files:
                raise ValueError(f"curation.decontamination.benchmarks.{name} ([]) must name at least one file or glob")


@dataclass(kw_only=True)
class CurationConfig:
    """The steps between raw records and documents, each off until its `domains` name some."""

    repair: RepairConfig = field(default_factory=RepairConfig)
    """Unicode repair."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Language identification."""
    gopher_quality: GopherQualityConfig = field(default_factory=GopherQualityConfig)
    """Gopher's quality rules."""
    gopher_repetition: GopherRepetitionConfig = field(default_factory=GopherRepetitionConfig)
    """Gopher's repetition rules."""
    c4: C4Config = field(default_factory=C4Config)
    """C4's rules."""
    data_everywhere: DataEverywhereConfig = field(default_factory=DataEverywhereConfig)
    """The limits of "Data, Data Everywhere"."""
    code: CodeConfig = field(default_factory=CodeConfig)
    """Rules for source code."""
    pii: PiiConfig = field(default_factory=PiiConfig)
    """Scrubbing of personal data."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Removal of evaluation items."""


def rules_by_language(config: Rules, languages: dict[str, dict[str, float]]) -> dict[str, Rules]:
    """The config as each overridden language sees it."""
    return {
        language: replace(config, **overrides, languages={})  # type: ignore[type-var]
        for language, overrides in languages.items()
    }


def _refuse_code(step: str, domains: list[str], reason: str) -> None:
    if CODE_DOMAIN in domains:
        raise ValueError(f"curation.{step}.domains ({domains}) must not name {CODE_DOMAIN}: {reason}")


def _check_range(step: str, config: Any, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        rule = f"be at least {low}" if high == float("inf") else f"lie in [{low}, {high}]"
        raise ValueError(f"curation.{step}.{name} ({value}) must {rule}")


def _check_order(step: str, config: Any, low: str, high: str) -> None:
    if not 0 <= getattr(config, low) <= getattr(config, high):
        raise ValueError(f"curation.{step}.{low} ({getattr(config, low)}) must lie in [0, {high}={getattr(config, high)}]")


def _check_overrides(step: str, config: Any, languages: dict[str, dict[str, float]]) -> None:
    known = [field.name for field in fields(config) if isinstance(getattr(config, field.name), int | float)]
    for language, overrides in languages.items():
        for name in overrides:
            if name not in known:
                rule = f"is no threshold; these are: {', '.join(known)}"
                raise ValueError(f"curation.{step}.languages.{language} ({name}) {rule}")
    try:
        rules_by_language(config, languages)
    except ValueError as error:
        raise ValueError(f"curation.{step}.languages: {error}") from None
