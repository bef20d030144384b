"""Repair fixes what was decoded wrongly and leaves style alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.config import RepairConfig
from nemotron4_data.curation.repair import Repair

REPAIR = Repair(RepairConfig(domains=["english"]))


def repaired(text):
    document = {"text": text}
    assert REPAIR(document) is None
    return document["text"]


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("l’été".encode().decode("cp1252"), "l’été"),
        ("schÃ¶n \u00e2\u20ac\u201c gut", "schön – gut"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("it\u0092s", "it’s"),
    ],
)
def test_mojibake_is_repaired(broken, mended):
    assert repaired(broken) == mended


@pytest.mark.parametrize(
    "text",
    [
        "“curly” ‘quotes’",
        "ﬁle ＡＢＣ ｶﾅ",
        "a\r\nb\u2028c\x0bd  \t e\u00a0f ",
        "e\u0301 and é",
        "&amp; &lt;b&gt;",
        "\x1b[31mred\x1b[0m \u200bzero\ufeff",
        "L&AMP;P; naïve café; 10³ µm",
        "a quote\u00e2\u20ac\ufffd that was lost",
    ],
)
def test_style_and_white_space_stay(text):
    assert repaired(text) == text


@settings(deadline=None)
@given(st.text())
def test_any_text_is_repaired_once(text):
    once = repaired(text)
    assert repaired(once) == once


_DAMAGED = ["Ã ", "\nÂ ", "schÃ¶n", "\u0092", "œ\n", "ГўВЂВ.a", "ØªØ", "â€œ", "Â°", "a\ufffdb", "\ud83d\ude00"]
_WHOLE = ["a" * 15, "b" * 16, "c" * 40, "\n", "é", "привет", "“", "漢字", "Ã", " "]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_DAMAGED + 3 * _WHOLE), max_size=12).map("".join))
def test_looking_only_around_characters_outside_ascii_misses_nothing(text):
    assert repaired(text) == REPAIR._fix_text(text, REPAIR._settings)
