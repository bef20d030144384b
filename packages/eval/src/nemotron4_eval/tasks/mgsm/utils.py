"""MGSM: the number that an answer comes to, however it is written.

Invariant: a number of an answer and the right one are compared as values. Digits may be of any script, thousands may be
set apart by a comma, a point, an apostrophe or a space, and signs of currencies may stand before the number.
Source: arXiv 2210.03057.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from nemotron4_eval.data.locate import load_from_environment as load

__all__ = ["load"]

NO_NUMBER = "[invalid]"
"""What an answer without a number comes to; the harness's own word."""
NUMBER = (
    r"(?:(?<!\d)-)?(?<!\d)(?:\d{1,3}(?:[.,'’ \u00a0\u202f]\d{3})+(?!\d)(?:[.,]\d+)?"  # 1,234.5 and 1.234,5 and 1 234,5
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+(?:[.,]\d+)?)"  # 1,23,456; 1234.5
)
STATED = (
    "The answer is",
    "উত্তর হল",
    "Die Antwort (?:ist|lautet)",
    "La respuesta es",
    "La réponse est",
    "答えは",
    "Ответ —",
    "Jibu ni",
    "సమాధానం",
    "คำตอบคือ",
    "答案是",
)
"""What stands before the number in the published chains of thought, a language a line."""
_NUMBER = re.compile(NUMBER)
_STATED = re.compile(rf"(?:{'|'.join(STATED)})[\s:：*]*(?:[^\W\d_]{{0,3}}[$€£¥₹฿₽])?\s*({NUMBER})", re.IGNORECASE)


def right_number(item: Mapping[str, Any]) -> str:
    """The right number of an item, in the form that the filters give."""
    return canonical(_plain(item["answer_number"]))


def stated_number(responses: Iterable[Sequence[str]], items: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A filter: the first number after "The answer is", or after the same in another of MGSM's languages."""
    return [[_first(_STATED.findall(_plain(each))) for each in answers] for answers in responses]


def last_number(responses: Iterable[Sequence[str]], items: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A filter: the last number of an answer."""
    return [[_first(_NUMBER.findall(_plain(each))[-1:]) for each in answers] for answers in responses]


def canonical(number: str) -> str:
    """A number in digits 0 to 9, without separators of thousands, and with a point only before decimals that count."""
    sign, digits = number.startswith("-"), re.sub(r"[ \u00a0\u202f'’]", "", number.removeprefix("-"))
    separators = [each for each in digits if each in ".,"]
    if separators and _is_decimal(digits, separators):
        whole, _, decimals = digits.rpartition(separators[-1])
        digits = f"{re.sub('[.,]', '', whole)}.{decimals}"
    else:
        digits = re.sub("[.,]", "", digits)
    value = -Decimal(digits) if sign else Decimal(digits)
    return f"{value.normalize():f}" if value else "0"


def _is_decimal(digits: str, separators: Sequence[str]) -> bool:
    """Whether the last separator stands before decimals: 12,5 and 1,234.567 and 0.125, but not 1.234 or 1,234,567."""
    if len(set(separators)) == 2:
        return separators.count(separators[-1]) == 1
    whole, _, after = digits.rpartition(separators[-1])
    return len(separators) == 1 and (len(after) != 3 or whole == "0" or len(whole) > 3)


def _first(numbers: Sequence[str]) -> str:
    return canonical(numbers[0]) if numbers else NO_NUMBER


def _plain(text: str) -> str:
    """The text with digits 0 to 9 for those of other scripts, and hyphens for signs of minus."""
    return "".join(
        str(value) if (value := unicodedata.decimal(c, None)) is not None else _SIGNS.get(c, c) for c in text
    )


_SIGNS = {"−": "-", "–": "-", "－": "-", "，": ",", "．": ".", "٬": ",", "٫": "."}
