"""Each of Gopher's rules on a document that breaks just that one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.gopher_quality import GopherQuality
from nemotron4_data.curation.gopher_repetition import GopherRepetition
from nemotron4_data.curation.heuristics_config import GopherQualityConfig, GopherRepetitionConfig

QUALITY = GopherQuality(GopherQualityConfig(domains=["english"]))
REPETITION = GopherRepetition(GopherRepetitionConfig(domains=["english"]))
WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]


def line(start, count):
    return " ".join(WORDS[start : start + count])


def test_prose_stays(document, prose):
    assert QUALITY(document(prose)) is None
    assert REPETITION(document(prose)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda prose: prose[:100], "min_words"),
        (lambda prose: prose * 2000, "max_words"),
        (lambda prose: "to be of a " * 20, "min_mean_word_length"),
        (lambda prose: prose + "incomprehensibilities " * 60, "max_mean_word_length"),
        (lambda prose: prose + " # # # # # # # # # # # #", "max_symbol_ratio"),
        (lambda prose: prose + "....................................", "max_symbol_ratio"),
        (lambda prose: "".join(f"- {row}\n" for row in prose.splitlines()), "max_bullet_lines"),
        (lambda prose: "".join(f" \u2022 {row}\n" for row in prose.splitlines()), "max_bullet_lines"),
        (lambda prose: prose.replace("banks.", "banks…").replace("side.", "side... "), "max_ellipsis_lines"),
        (lambda prose: prose + "1234 " * 30, "min_alphabetic_words"),
        (lambda prose: line(0, 60), "min_stop_words"),
    ],
)
def test_quality_rules(document, prose, change, reason):
    assert QUALITY(document(change(prose))) == reason


def test_quality_thresholds_by_language(document):
    longer = document("Sanojenvälisistä tyhjätilamerkeistä riippumattomasti ja on " * 12, "fi", "multilingual/fi")
    assert QUALITY(longer) == "max_mean_word_length"
    config = GopherQualityConfig(
        domains=["multilingual"], stop_words={"fi": ["ja", "on"]}, languages={"fi": {"max_mean_word_length": 14}}
    )
    assert GopherQuality(config)(longer) is None


def test_languages_without_a_list_need_no_stop_words(document):
    assert QUALITY(document(line(0, 60), "is", "multilingual/is")) is None


def test_unspaced_languages_are_judged_by_lines(document):
    chinese = "河面宽阔，水流缓慢，山谷里的人们早已学会与它共处。"
    assert QUALITY(document(chinese, "zh", "multilingual/zh")) is None
    assert QUALITY(document(f"- {chinese}\n" * 9, "zh", "multilingual/zh")) == "max_bullet_lines"
    assert REPETITION(document("水" * 500, "zh", "multilingual/zh")) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line(0, 20) + "\n\na\n\na\n\na", "max_duplicate_paragraphs"),
        (
            "\n\n".join([line(0, 8), *(line(20 * i, 20) for i in range(1, 4)), line(20, 20)]),
            "max_duplicate_paragraph_chara",
        ),
        ("\n".join([line(0, 20), "a", "a", "a"]), "max_duplicate_lines"),
        ("\n".join([line(0, 8), *(line(20 * i, 20) for i in range(1, 4)), line(20, 20)]), "max_duplicate_line_chara"),
        (line(0, 30) + " again and" * 12, "max_top_ngram (n=2)"),
        (" ".join(f"{WORDS[i]} alpha beta gamma" for i in range(30)), "max_top_ngram (n=2)"),
        (f"{line(0, 60)}\n{line(0, 15)}", "max_duplicate_ngrams (n=5)"),
    ],
)
def test_repetition_rules(document, text, reason):
    assert REPETITION(document(text)).startswith(reason)


@pytest.mark.parametrize("n", [3, 4])
def test_longer_top_ngrams(document, n):
    limits = [1.0] * 3
    limits[n - 2] = 0.1
    step = GopherRepetition(GopherRepetitionConfig(max_top_ngram=limits, max_duplicate_ngrams=[1.0] * 6))
    assert step(document(" ".join(f"{WORDS[i]} {line(200, n)}" for i in range(5)))) == f"max_top_ngram (n={n})"


@pytest.mark.parametrize("n", range(5, 11))
def test_duplicates_are_counted_once(document, n):
    text = " ".join([line(0, n), line(100, 30), line(0, n), line(200, 30)])
    share = n * len(WORDS[0]) / len(text)
    for limit, reason in ((0.99 * share, f"max_duplicate_ngrams (n={n})"), (1.01 * share, None)):
        limits = [1.0] * 6
        limits[n - 5] = limit
        step = GopherRepetition(GopherRepetitionConfig(max_top_ngram=[1.0] * 3, max_duplicate_ngrams=limits))
        assert step(document(text)) == reason


@settings(deadline=None)
@given(st.text(st.sampled_from("ab \n.…#-"), max_size=400) | st.text(max_size=200))
def test_no_text_is_too_strange(text):
    for language in ("en", "zh", "fr"):
        document = {"text": text, "source": "multilingual/x", "language": language}
        for step in (QUALITY, REPETITION):
            assert step(document) == step(document)
        assert document["text"] == text
