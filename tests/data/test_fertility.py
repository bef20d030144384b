"""Tokens per word and bytes per token by language: what counts as a word, and sums that add up."""

import json
import math
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_data.fertility import (
    FertilityRow,
    count_words,
    fertility,
    fertility_chart,
    sample_documents,
)


@pytest.mark.parametrize(
    ("text", "words", "characters"),
    [
        ("", 0, 0),
        ("... --- !?", 0, 0),
        ("Don't stop, naïve Straße!", 4, 0),
        ("max_lines = 1984  # x2", 3, 0),
        ("हिन्दी में लिखा", 3, 0),  # vowel signs and virama belong to their word
        ("cafe\u0301 au lait", 3, 0),
        ("日本語 text", 4, 3),
        ("ภาษาไทย", 7, 7),
        ("ที่", 1, 1),  # one consonant with two marks
        ("русский язык", 2, 0),
        ("한국어 단어", 2, 0),
        ("中文，标点。", 4, 4),
    ],
)
def test_words_of_many_scripts(text, words, characters):
    assert count_words(text) == (words, characters)


@given(st.text(max_size=80), st.text(max_size=80))
def test_words_of_lines_add_up(first, second):
    counts = zip(count_words(first), count_words(second), strict=True)
    assert count_words(f"{first}\n{second}") == tuple(map(sum, counts)) or unicodedata.category(second[0])[0] == "M"


def test_rows_sum_their_documents(tokenizer):
    texts = {"english/web": ["It is so."], "code/python": ["x = max_lines"], "multilingual/de": ["Es ist so", "ja"]}
    documents = [{"text": text, "source": source} for source, found in texts.items() for text in found]
    documents.append({"text": "Das auch.", "source": "english/web", "language": "de"})
    rows = {(row.kind, row.language): row for row in fertility(documents, tokenizer)}
    assert list(rows) == [("natural", "de"), ("natural", "en"), ("programming", "python")]
    de = rows["natural", "de"]
    assert (de.documents, de.words, de.bytes) == (3, 6, 20)
    assert de.tokens == sum(len(tokenizer.encode(text)) for text in ("Es ist so", "ja", "Das auch."))
    assert de.tokens_per_word == de.tokens / 6
    assert de.bytes_per_token == 20 / de.tokens
    assert fertility(reversed(documents), tokenizer) == list(rows.values())


def test_a_prepared_corpus_is_sampled_from_its_held_out_documents(corpus, tokenizer):
    sources = {name: ["train", "heldout"] for name in corpus.source_names}
    found = list(sample_documents(corpus.dir / "documents", sources))
    held_out = [text.decode() for name in sorted(sources) for text in corpus.heldout(name).texts]
    assert [document["text"] for document in found] == held_out
    assert found == list(sample_documents(corpus.dir / "documents", sources))
    one_each = list(sample_documents(corpus.dir / "documents", sources, max_bytes_per_source=1))
    assert [document["source"] for document in one_each] == sorted(sources)
    train = sample_documents(corpus.dir / "documents", {"code/c": ["train"]}, max_bytes_per_source=1)
    assert len(list(train)) == 1
    ja = next(row for row in fertility(found, tokenizer) if row.language == "ja")
    assert ja.counted == "characters"


def test_the_chart_shows_every_language():
    rows = [
        FertilityRow(kind="natural", language="en", documents=1, bytes=40, words=8, tokens=10),
        FertilityRow(kind="natural", language="zh", documents=1, bytes=30, words=10, characters=9, tokens=12),
        FertilityRow(kind="programming", language="c<>&", documents=1, bytes=3, words=0, tokens=3),
    ]
    assert math.isnan(rows[2].tokens_per_word)
    assert [row.counted for row in rows] == ["words", "characters", "words"]
    chart = ElementTree.fromstring(fertility_chart(rows))
    names = [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert {"en", "zh *", "c<>&"} <= set(names)
    assert json.dumps(names).count("1.2") == 2
    assert fertility_chart([])
