"""What curation does to documents: one dataclass per step, thresholds as published, every step off by default.

A step runs on the documents of its `domains` and is off while that list is empty; steps for prose reject the domain
`code`. Light on purpose: only the standard library and the rules are imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nemotron4_common.rules import require

from .config_checks import check_range, refuse_code
from .dedup_config import DedupConfig
from .heuristics_config import C4Config, DataEverywhereConfig, GopherQualityConfig, GopherRepetitionConfig
from .quality_config import QualityConfig


@dataclass(kw_only=True)
class RepairConfig:
    """Unicode repair by ftfy: mojibake only, neither style nor whitespace."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are repaired."""

    def __post_init__(self) -> None:
        refuse_code("repair", self.domains, "string literals may hold broken text on purpose")


@dataclass(kw_only=True)
class LanguageConfig:
    """Identification of the language a document is really in, against the one it declares."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are checked; a document of `english` without a language declares English."""
    min_confidence: float = 0.5
    """Probability from which a language other than the declared one drops the document, or is taken as the language of
    one that declares none."""
    min_characters: int = 50
    """Texts of fewer characters are not judged: too little to tell related languages apart."""
    max_characters: int = 4000
    """Characters, from the beginning, that are read; the rest is not."""

    def __post_init__(self) -> None:
        refuse_code("language", self.domains, "its language is a programming language")
        check_range("language", self, "min_confidence", 0, 1)
        check_range("language", self, "min_characters", 1, float("inf"))
        check_range("language", self, "max_characters", self.min_characters, float("inf"))


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
    """Greatest share of the text in base64, lists of bytes and the like; a run of more than 1024 characters also
    drops."""
    max_digits: float = 0.5
    """Greatest share of digits among the characters that are not space: tables of numbers are data."""
    generated: bool = True
    """Drop files that bear a generator's signature near their beginning, and minified files, told by their path."""
    licenses: list[str] = field(default_factory=list)
    """SPDX identifiers that are kept; a document without `license` is kept, and an empty list keeps all."""

    def __post_init__(self) -> None:
        for name in ("min_alphanumeric", "max_encoded", "max_digits"):
            check_range("code", self, name, 0, 1)
        for name in ("max_line_length", "max_mean_line_length"):
            check_range("code", self, name, 1, float("inf"))


@dataclass(kw_only=True)
class PiiConfig:
    """Personal data that is replaced in the text."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are scrubbed."""
    placeholders: dict[str, str | None] = field(
        default_factory=lambda: {
            # Addresses reserved by RFC 2606, 5737 and 3849: they belong to no one and are not replaced again.
            "email": "email@example.org",
            "ipv4": "192.0.2.1",
            "ipv6": "2001:db8::1",
            "phone": "[phone number]",
            "card": "[card number]",
            "iban": "[bank account]",
        }
    )
    """What replaces each kind; null leaves a kind alone."""
    phone_regions: dict[str, str] = field(default_factory=lambda: {"en": "US"})
    """Region whose national way of writing phone numbers is read, by language; +… is read in every language."""

    def __post_init__(self) -> None:
        kinds = ("email", "ipv4", "ipv6", "phone", "card", "iban")
        for kind in self.placeholders:
            require(kind in kinds, "curation.pii.placeholders", kind, f"must be one of {', '.join(kinds)}")


@dataclass(kw_only=True)
class DecontaminationConfig:
    """Evaluation sets whose items must not be trained on (GPT-3's 13-grams, arXiv 2005.14165, appendix C)."""

    domains: list[str] = field(default_factory=list)
    """Domains whose documents are checked."""
    benchmarks: dict[str, list[str]] = field(default_factory=dict)
    """Files or globs of each benchmark: .jsonl, .json, .tsv or .txt, and these with .gz, .xz or .zst."""
    ngram_words: int = 13
    """A document that shares this many words in a row with an item is dropped; shorter items cannot be found."""

    def __post_init__(self) -> None:
        check_range("decontamination", self, "ngram_words", 1, float("inf"))
        for name, files in self.benchmarks.items():
            key = f"curation.decontamination.benchmarks.{name}"
            require(bool(files), key, files, "must name at least one file or glob")


@dataclass(kw_only=True)
class CurationConfig:
    """The steps between raw records and documents, each off until its domains, or those of `dedup`, say so."""

    repair: RepairConfig = field(default_factory=RepairConfig)
    """Unicode repair."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Language identification."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Exact and near deduplication, of all domains."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Quality as a language model judges it."""
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
    keep_dropped: bool = False
    """Write what the steps and deduplication drop to `dropped/`, each document with its step and the reason."""
