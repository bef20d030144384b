"""Shingles against their definition, computed from the text one character at a time."""

import string
import sys
import unicodedata

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemotron4_data.curation.shingles import distinct, jaccard, shingle_hashes

# Letters of scripts with and without spaces, some that change length or form in lower case, marks, digits, separators.
SPACED = "aAzZ09_éÉßΣσςİıЖжאبहि한글ªµº\u0301"
UNSPACED = "日本語々〇ひらカタｶกขລາཀခក"
SEPARATORS = string.whitespace + string.punctuation.replace("_", "") + "\u00a0«»¿—…“”\u2028\u3000、。「」！"
UNSPACED_NAMES = ("CJK UNIFIED", "HIRAGANA LETTER", "KATAKANA LETTER", "THAI CHAR", "LAO LETTER", "KHMER LETTER")
PIECE = 1 << 16

texts = st.text(alphabet=SPACED + UNSPACED + SEPARATORS, max_size=60)


def naive_words(text):
    words, word = [], ""
    for character in text.lower():
        if character in SEPARATORS or character in UNSPACED:
            words += [word] * bool(word) + [character] * (character in UNSPACED)
            word = ""
        else:
            word += character
    return words + [word] * bool(word)


def naive_shingles(text, num_words):
    words = naive_words(text)
    length = min(num_words, len(words))
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)] if words else []


@settings(max_examples=400, deadline=None)
@given(texts, texts, st.integers(1, 6))
@example("", "...", 5)
@example("one", "One!", 5)
@example("ΟΔΟΣ ΟΔΟΣΑ", "İİİ İ", 1)
@example("plain ascii words", "plain ascii words é", 2)
def test_shingles_are_equal_exactly_where_their_words_are(left, right, num_words):
    naive = [naive_shingles(text, num_words) for text in (left, right)]
    hashes = [shingle_hashes(text, num_words) for text in (left, right)]
    assert [len(side) for side in hashes] == [len(side) for side in naive]
    pairs = set(zip(naive[0] + naive[1], np.concatenate(hashes).tolist(), strict=True))
    assert len({words for words, _ in pairs}) == len({value for _, value in pairs}) == len(pairs)
    sets = [set(side) for side in naive]
    expected = len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))
    assert jaccard(distinct(hashes[0]), distinct(hashes[1])) == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.integers(PIECE - 80, PIECE + 5), st.sampled_from(" \n"))
def test_hashes_do_not_depend_on_the_pieces_of_long_texts(parts, distance, space):
    filler = ("word" + space) * (distance // 5)
    text = filler.join(["", *parts, ""])
    naive = naive_shingles(text, 3)
    hashes = shingle_hashes(text, 3).tolist()
    assert len(hashes) == len(naive)
    assert len(set(zip(naive, hashes, strict=True))) == len(set(naive)) == len(set(hashes))


def test_every_white_space_separates_words_and_no_letter_does():
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    spaces = [character for character in characters if character.isspace()]
    assert [space for space in spaces if len(shingle_hashes(f"a{space}b", 1)) != 2] == []
    letters = [character for character in characters if unicodedata.category(character).startswith("L")]
    assert len(shingle_hashes(" ".join(letters), 1)) == len(letters)


def test_letters_of_scripts_without_spaces_are_words():
    letters = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Lo"]
    unspaced = [letter for letter in letters if unicodedata.name(letter, "").startswith(UNSPACED_NAMES)]
    assert len(shingle_hashes("".join(unspaced), 1)) == len(unspaced) > 80_000
    hangul = [letter for letter in letters if unicodedata.name(letter, "").startswith("HANGUL SYLLABLE")]
    assert len(shingle_hashes("".join(hangul), 1)) == 1


def test_hashes_depend_on_the_text_alone():
    # Files of an earlier version or another machine are compared with these.
    known = [208913365499918068, 5084543115676697114]
    assert shingle_hashes("The same, everywhere: 日本 été", 5).tolist() == known
    assert len(shingle_hashes("\ud800 half a surrogate pair", 5)) == 1
