"""What the heuristics take for words, languages and domains.

A word is what lies between white space. Scripts that write no spaces have no such words: rules that count or measure
words are not applied to their languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

UNSPACED = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th", "wuu", "yue", "zh"})
"""Languages whose words are not separated by spaces."""
_HAN_AND_KANA = (*range(0x3041, 0x3100), *range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0x20000, 0x32000))


def domain_of(document: dict[str, Any]) -> str:
    """The domain in a document's source, `domain/category`."""
    return str(document["source"]).partition("/")[0]


def language_of(document: dict[str, Any]) -> str:
    """The declared language as its primary subtag in lower case; a document of `english` declares English; else ''."""
    declared = document.get("language") or ("en" if domain_of(document) == "english" else "")
    return str(declared).replace("_", "-").partition("-")[0].lower()


@cache
def alphanumeric_class() -> str:
    """What stands between [ ] to match a letter, combining mark or digit of any script.

    `\\w` of the `re` module leaves out combining marks, and without them Indic words fall apart.
    """
    return _character_class(c for c in range(0x32000) if unicodedata.category(chr(c))[0] in "LMN")


@cache
def normalised_word() -> re.Pattern[str]:
    """Matches words without punctuation; each Han or kana character is one, as no spaces divide them."""
    single = frozenset(_HAN_AND_KANA)
    others = (c for c in range(0x20000) if unicodedata.category(chr(c))[0] in "LMN" and c not in single)
    return re.compile(f"[{_character_class(_HAN_AND_KANA)}]|[{_character_class(others)}]+")


def _character_class(codes: Iterable[int]) -> str:
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
