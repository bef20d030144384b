"""What the heuristics take for words, languages and domains.

A word is what lies between white space. Scripts that write no spaces have no such words: rules that count or measure
words are not applied to their languages.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

UNSPACED = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"})
"""Languages whose words are not separated by spaces."""
_HAN_AND_KANA = ((0x3041, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x323AF))


def domain_of(document: dict[str, Any]) -> str:
    """The domain in a document's source, `domain/category`."""
    return str(document["source"]).partition("/")[0]


def language_of(document: dict[str, Any]) -> str:
    """The declared language as its primary subtag in lower case; a document of `english` declares English; else ''."""
    declared = document.get("language") or ("en" if domain_of(document) == "english" else "")
    return str(declared).replace("_", "-").partition("-")[0].lower()


@cache
def is_alphanumeric(character: str) -> bool:
    """Whether it is a letter, a digit or a combining mark of any script; without marks Indic words fall apart."""
    return unicodedata.category(character)[0] in "LMN"


class _Punctuation(dict[int, str]):
    """A table for `str.translate`, filled as characters turn up."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if any(low <= code <= high for low, high in _HAN_AND_KANA):
            self[code] = f" {character} "
        else:
            self[code] = character if is_alphanumeric(character) else " "
        return self[code]


_PUNCTUATION = _Punctuation()


def normalised_words(text: str) -> list[str]:
    """Words in lower case, without punctuation; each Han or kana character is one, as no spaces divide them."""
    return text.lower().translate(_PUNCTUATION).split()
