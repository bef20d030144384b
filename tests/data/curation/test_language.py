"""The language a document is in, against the one it declares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.config import LanguageConfig
from nemotron4_data.curation.language import Language

ENGLISH = "All human beings are born free and equal in dignity and rights. They are endowed with reason."
DANISH = "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft."
NORWEGIAN = "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt med fornuft."
SERBIAN = "Сва људска бића рађају се слободна и једнака у достојанству и правима. Она су обдарена разумом и свешћу."
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。" * 2
MULTILINGUAL = "multilingual/web"


@pytest.fixture(scope="module")
def step():
    return Language(LanguageConfig(domains=["english", "multilingual"]))


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        (ENGLISH, "en"),
        (ENGLISH, "en-GB"),
        (DANISH, "da"),
        (NORWEGIAN, "no"),
        (NORWEGIAN, "nb"),
        (SERBIAN, "sr"),
        (SERBIAN, "sr_Cyrl"),
        (CHINESE, "zh"),
        (CHINESE, "zh-Hans"),
    ],
)
def test_what_is_as_declared_stays(step, document, text, declared):
    kept = document(text, declared, MULTILINGUAL)
    assert step(kept) is None
    assert kept["language"] == declared


def test_the_reason_names_both_languages(step, document):
    assert step(document(ENGLISH, "da", MULTILINGUAL)) == "declares da, is en"
    assert step(document(DANISH, "zh-Hant", MULTILINGUAL)) == "declares zh, is da"


def test_english_is_checked_even_if_only_the_domain_says_so(step, document):
    assert step(document(DANISH, None)) == "declares en, is da"


def test_an_undeclared_language_is_declared(step, document):
    found = document(DANISH, None, MULTILINGUAL)
    assert step(found) is None
    assert found["language"] == "da"


def test_short_and_doubtful_texts_are_not_judged(document):
    short = document("Alle mennesker", "en")
    assert Language(LanguageConfig(domains=["english"]))(short) is None
    doubting = Language(LanguageConfig(domains=["english"], min_confidence=1.0))
    assert doubting(document("Hand in hand, die Kinder: war in den Alps. " * 2, "en")) is None
    undetermined = document("12", None, MULTILINGUAL)
    doubting(undetermined)
    assert undetermined["language"] == "und"


def test_only_the_beginning_is_read(document):
    step = Language(LanguageConfig(domains=["english"], max_characters=90))
    assert step(document(ENGLISH + " " + DANISH * 20)) is None


def test_the_sample_is_what_it_declares(step, sample):
    reasons = [step(dict(row)) for domain in ("english", "multilingual") for row in sample[domain]]
    assert sum(reason is not None for reason in reasons) < 0.004 * len(reasons)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_is_too_strange(text):
    Language(LanguageConfig(domains=["x"], min_characters=1))({"text": text, "source": "x/y", "language": "xx"})
