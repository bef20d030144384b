"""Each limit of "Data, Data Everywhere" on a document that exceeds just that one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.data_everywhere import DataEverywhere
from nemotron4_data.curation.heuristics_config import DataEverywhereConfig

STEP = DataEverywhere(DataEverywhereConfig(domains=["english"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda prose: prose, None),
        (lambda prose: prose + "+-*/" * 12, "max_non_alphanumeric"),
        (lambda prose: prose + "1234567890" * 8, "max_numbers"),
        (lambda prose: prose + "https://en.wikipedia.org/wiki/River#Flow " * 4, "max_urls"),
        (lambda prose: prose[:200], "min_words"),
        (lambda prose: (prose.replace("\n", " ") + "\n") * 1500, "max_words"),
        (lambda prose: "a.,\nbb\ne\n" * 60, "min_mean_word_length"),
        (lambda prose: prose + "incomprehensibilities " * 60, "max_mean_word_length"),
    ],
)
def test_limits(document, prose, change, reason):
    assert STEP(document(change(prose))) == reason


def test_indentation_is_layout(document, prose):
    indented = "\n".join(" " * 30 + line for line in prose.split("\n"))
    assert STEP(document(indented)) is None
    assert STEP(document(indented.replace(" the ", " " * 20))) == "max_non_alphanumeric"


def test_letters_of_every_script_are_alphanumeric(document):
    hindi = "मानव परिवार के सभी सदस्यों के जन्मजात गौरव और समान तथा अविच्छिन्न अधिकार की स्वीकृति " * 4
    assert STEP(document(hindi, "hi", "multilingual/hi")) is None
    assert STEP(document("人人生而自由在尊严和权利上一律平等", "zh", "multilingual/zh")) is None


@settings(deadline=None)
@given(st.text())
def test_no_text_is_too_strange(text):
    document = {"text": text, "source": "english/x"}
    assert STEP(document) == STEP(document)
    assert document["text"] == text
