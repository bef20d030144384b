"""C4's rules: what a good line is, what drops a document, and what happens to its text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.c4 import C4, count_sentences
from nemotron4_data.curation.heuristics_config import C4Config
from nemotron4_data.curation.wrapped import unwrapped

REMOVING = C4(C4Config(domains=["english"]))
JUDGING = C4(C4Config(domains=["english"], remove_lines=False))


@pytest.mark.parametrize(
    "bad",
    [
        "Home About Contact",
        "Too few.",
        "This line trails off...",
        "Please enable JavaScript to see this page.",
        "By using this site you accept our privacy policy.",
        f"One word is {'long' * 251} and ends well.",
    ],
)
def test_bad_lines_leave_the_text_or_only_do_not_count(document, prose, bad):
    removed = document(f"{bad}\n{prose}  {bad}")
    assert REMOVING(removed) is None
    assert removed["text"] == prose.strip()
    judged = document(f"{bad}\n{prose}")
    assert JUDGING(judged) is None
    assert judged["text"] == f"{bad}\n{prose}"
    assert JUDGING(document(f"{bad}\n" * 9)) == "min_sentences"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("One sentence is here. Two are here. Three are here. Four are here.", "min_sentences"),
        ("Lorem ipsum dolor sit amet.", "lorem_ipsum"),
        ("A function f() { return 1; } is here.", "curly_brackets"),
    ],
)
def test_documents_are_dropped(document, prose, text, reason):
    text = text if reason == "min_sentences" else prose + text
    assert REMOVING(document(text)) == JUDGING(document(text)) == reason


REST = """\
cache
=====

Values that are costly to compute can be kept in a cache, which is asked
first whenever one of them is needed again. The size of a cache is set
by :option:`--size` and may be changed at any time, as
described below; it is counted in entries and not in bytes of their
values.

Usage
-----

* ``get`` gives the value of a key, or computes it by the function that
  was given when the cache was made. A value that was computed is kept
  until the cache is full.
* ``drop`` removes the value of one key, whether it was used or not, and
  tells its size. See also
  :doc:`removal`.
"""


def test_lines_of_wrapped_paragraphs_are_joined(document):
    """Of the fourteen lines two end in a sentence, with two sentences; the five paragraphs hold six in good ones."""
    wrapped = document(REST)
    assert JUDGING(wrapped) is None
    assert wrapped["text"] == REST
    assert JUDGING(document(REST.replace(". ", ", "))) == "min_sentences"
    removed = document(REST)
    assert REMOVING(removed) is None
    first, *_ = removed["text"].split("\n")
    assert first.startswith("Values that are costly to compute can be kept in a cache, which is asked first whenever")
    assert first.endswith("and not in bytes of their values.")
    assert unwrapped(REST).split("\n")[:2] == ["cache =====", ""]


def test_other_texts_are_judged_line_by_line_as_published(document, prose):
    menu = "Home and away\nabout the shop\ncontact us\n" * 20
    listing = "\n".join(f"value_{i} = compute(value_{i - 1}, limit={i})" for i in range(40))
    for text in (prose, menu, listing, "\n".join("one two three four " * 12 for _ in range(9))):
        assert unwrapped(text) == text
    assert JUDGING(document(menu)) == "min_sentences"


def test_rules_can_be_switched_off(document, prose):
    step = C4(C4Config(curly_brackets=False, terminal_punctuation=False, min_sentences=1, min_words_per_line=1))
    lenient = document("if (x) { y }")
    assert step(lenient) is None
    assert lenient["text"] == "if (x) { y }"


def test_citations_are_removed(document, prose):
    cited = document(prose.replace("wide", "wide[12]").replace("slow", "slow[citation needed]"))
    assert REMOVING(cited) is None
    assert cited["text"] == prose.strip()


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "河面宽阔。水流缓慢！人们早已学会？孩子们游泳。磨坊转动。"),
        ("hi", "यह एक वाक्य है। यह दूसरा वाक्य है। यह तीसरा है। यह चौथा है। यह पाँचवाँ है।"),
        ("th", "แม่น้ำกว้างและไหลช้า"),
        ("hy", "Սա մեկ է։ Սա երկու է։ Սա երեք է։ Սա չորս է։ Սա հինգ է։"),
    ],
)
def test_other_scripts_have_their_own_sentence_ends(document, language, text):
    assert REMOVING(document(text, language, f"multilingual/{language}")) is None


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three?", 3),
        ('He said "No." She left.', 2),
        ("Version 3.11 is out.", 1),
        ("quoted”", 1),
        ("好。好！", 2),
    ],
)
def test_sentences_are_counted_by_their_ends(line, sentences):
    assert count_sentences(line) == sentences


@settings(deadline=None)
@given(st.text(st.sampled_from('ab .!?"[1]{\n。'), max_size=300) | st.text(max_size=200))
def test_what_is_kept_is_kept_as_it_is_the_second_time(text):
    step = C4(C4Config(min_sentences=0))
    document = {"text": text, "source": "english/x"}
    if step(document) is None:
        once = document["text"]
        assert step(document) is None
        assert document["text"] == once
