"""What the heuristics count as words, languages and domains.

Words are separated by white space. Scripts written without spaces have no such words: rules that count or measure words
are not applied to their languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from ..document_fields import Document

UNSPACED = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"})
"""Languages whose words are not separated by spaces."""
_STRETCH_CHARACTERS = 1 << 20
_WHITE_SPACE = re.compile(r"\s")
_HAN_AND_KANA = ((0x3041, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x323AF))


def text_size(text: str) -> int:
    """UTF-8 bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def domain_of(document: Document) -> str:
    """The domain in a document's source, `domain/category`."""
    return document["source"].partition("/")[0]


def language_of(document: Document) -> str:
    """Primary subtag of the declared language in lower case; `en` for the domain `english` by default, otherwise ''."""
    declared = document.get("language") or ("en" if domain_of(document) == "english" else "")
    return str(declared).replace("_", "-").partition("-")[0].lower()


@cache
def is_alphanumeric(character: str) -> bool:
    """Whether it is a letter, digit or combining mark of any script; without marks Indic words would be split."""
    return unicodedata.category(character)[0] in "LMN"


class _Punctuation(dict[int, str]):
    """A table for `str.translate`, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if any(low <= code <= high for low, high in _HAN_AND_KANA):
            self[code] = f" {character} "
        else:
            self[code] = character if is_alphanumeric(character) else " "
        return self[code]


_PUNCTUATION = _Punctuation()


def stretches(text: str) -> Iterator[str]:
    """A text in stretches of about a million characters, cut before white space, so that no word is cut.

    A list of the words of a long text would need more than ten times the text's memory.
    """
    start = 0
    while len(text) - start > _STRETCH_CHARACTERS:
        cut = _WHITE_SPACE.search(text, start + _STRETCH_CHARACTERS)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
    yield text[start:]


def word_lengths(text: str) -> list[int]:
    """Characters of each word."""
    return [length for stretch in stretches(text) for length in map(len, stretch.split())]


def normalised_words(text: str) -> list[str]:
    """Words in lower case, without punctuation; each Han or kana character is one, as they have no spaces."""
    return text.lower().translate(_PUNCTUATION).split()
