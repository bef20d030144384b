"""Mistakes in the configuration are refused in one line that states what would be right."""

import pytest

from nemotron4_data.curation.config import CodeConfig, DecontaminationConfig, LanguageConfig, PiiConfig, RepairConfig
from nemotron4_data.curation.heuristics_config import (
    C4Config,
    DataEverywhereConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    rules_by_language,
)

PROSE = "must not name code; these rules judge prose; code has curation.code"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RepairConfig(domains=["code"]),
            "curation.repair.domains (['code']): must not name code; string literals may hold broken text on purpose",
        ),
        (
            lambda: LanguageConfig(domains=["english", "code"]),
            "curation.language.domains (['english', 'code']): must not name code; "
            "its language is a programming language",
        ),
        (lambda: GopherQualityConfig(domains=["code"]), f"curation.gopher_quality.domains (['code']): {PROSE}"),
        (lambda: C4Config(domains=["code"]), f"curation.c4.domains (['code']): {PROSE}"),
        (lambda: DataEverywhereConfig(domains=["code"]), f"curation.data_everywhere.domains (['code']): {PROSE}"),
        (
            lambda: GopherRepetitionConfig(domains=["code"]),
            "curation.gopher_repetition.domains (['code']): must not name code; code repeats lines by nature; "
            "code has curation.code",
        ),
        (lambda: LanguageConfig(min_confidence=1.5), "curation.language.min_confidence (1.5): must lie in [0, 1]"),
        (lambda: LanguageConfig(max_characters=9), "curation.language.max_characters (9): must be at least 50"),
        (lambda: CodeConfig(max_line_length=0), "curation.code.max_line_length (0): must be at least 1"),
        (
            lambda: GopherQualityConfig(min_words=9, max_words=8),
            "curation.gopher_quality.min_words (9): must lie in [0, max_words=8]",
        ),
        (
            lambda: GopherRepetitionConfig(max_top_ngram=[0.2]),
            "curation.gopher_repetition.max_top_ngram ([0.2]): must be 3 shares in [0, 1]",
        ),
        (
            lambda: C4Config(languages={"fi": {"min_letters": 3}}),
            "curation.c4.languages.fi (min_letters): must be one of the thresholds min_sentences, min_words_per_line, "
            "max_word_length, terminal_punctuation, curly_brackets, remove_lines",
        ),
        (
            lambda: C4Config(languages={"fi": {"min_sentences": "3"}}),
            "curation.c4.languages.fi.min_sentences ('3'): must be a number",
        ),
        (
            lambda: DataEverywhereConfig(languages={"fi": {"max_urls": 3}}),
            "curation.data_everywhere.languages: curation.data_everywhere.max_urls (3): must lie in [0, 1]",
        ),
        (
            lambda: PiiConfig(placeholders={"name": "X"}),
            "curation.pii.placeholders (name): must be one of email, ipv4, ipv6, phone, card, iban",
        ),
        (
            lambda: DecontaminationConfig(benchmarks={"quiz": []}),
            "curation.decontamination.benchmarks.quiz ([]): must name at least one file or glob",
        ),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_overrides_replace_only_what_they_name():
    config = GopherQualityConfig(domains=["english"], languages={"fi": {"min_words": 7}})
    rules = rules_by_language(config, config.languages)["fi"]
    assert (rules.min_words, rules.max_words, rules.languages) == (7, config.max_words, {})
