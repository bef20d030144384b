"""Personal data in prose: e-mail addresses, IP addresses, phone, card and bank account numbers become placeholders.

Phone numbers, whose plans no pattern describes, are found by phonenumbers (Google's libphonenumber); what has a short
public grammar and a checksum is found here: e-mail (RFC 5322's dot-atom), IP by `ipaddress`, cards by issuer, grouping
and Luhn's checksum (ISO/IEC 7812), bank accounts by the checksum of IBAN (ISO 13616). Names and places are not looked
for: that takes a model.

Addresses that belong to no one stay: those reserved for documentation and private use, and `git@`. Replacing twice is
replacing once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from .config import PiiConfig
from .words import language_of

# Where a pattern may not begin is looked up behind its first character: only then does `re` skip quickly to that one.
_EMAIL = re.compile(r"[\w.+%-](?<![\w.+%-].)[\w.+%-]*+@((?:[\w-]++\.)+[^\W\d_]{2,})(?![\w@])")
_RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE
)
_IPV4 = re.compile(r"\d(?<![\w.-]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![\w:.-].)[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]*+(?![\w:])")
_SEVEN_DIGITS = re.compile(r"\d(?:[\s().\-/]{0,3}\d){6}")
_INTERNATIONAL = re.compile(r"\+\s?\(?\d")
_CARD = re.compile(r"\d(?<![\w.-]\d)\d{3}(?:([ -])\d{4}\1\d{4}\1\d{4}|([ -])\d{6}\2\d{5}|\d{9,12})(?![\w-]|\.\d)")
_ISSUED = re.compile(r"4(?:\d{12}|\d{15})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|(?:6011|65\d\d|64[4-9]\d|35\d\d)\d{12}")
_CARD_CONTEXT = re.compile(r"card|visa|master|amex|american express|\bcc\b", re.IGNORECASE)
_CONTEXT_CHARACTERS = 40
_IBAN = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


class Pii:
    """Replace personal data in place; drops nothing."""

    name = "pii"

    def __init__(self, config: PiiConfig) -> None:
        self.domains = config.domains
        self._regions = config.phone_regions
        finders = (
            ("email", _has_at, _EMAIL, _is_personal_email),
            ("iban", _always, _IBAN, _is_iban),
            ("card", _always, _CARD, _is_card),
            ("ipv4", _always, _IPV4, _is_public_ipv4),
            ("ipv6", _has_colons, _IPV6, _is_public_ipv6),
        )
        self._substitutions = [
            (may_hold, pattern, partial(_replaced, accept, placeholder))
            for kind, may_hold, pattern, accept in finders
            if (placeholder := config.placeholders.get(kind)) is not None
        ]
        self._phone = config.placeholders.get("phone")

    def __call__(self, document: dict[str, Any]) -> None:
        """Scrub the text; the declared language tells how phone numbers are written."""
        text = document["text"]
        for may_hold, pattern, replace in self._substitutions:
            if may_hold(text):
                text = pattern.sub(replace, text)
        if self._phone is not None and _SEVEN_DIGITS.search(text):
            region = self._regions.get(language_of(document))
            text = "\n".join(_without_phones(line, region, self._phone) for line in text.split("\n"))
        document["text"] = text


def _has_at(text: str) -> bool:
    return "@" in text


def _has_colons(text: str) -> bool:
    return "::" in text or text.count(":") >= 7


def _always(text: str) -> bool:
    return True


def _replaced(accept: Callable[[re.Match[str]], bool], placeholder: str, match: re.Match[str]) -> str:
    return placeholder if accept(match) else match[0]


def _is_personal_email(match: re.Match[str]) -> bool:
    return not match[0].startswith("git@") and not _RESERVED_HOST.search(match[1])


def _is_public_ipv4(match: re.Match[str]) -> bool:
    try:
        is_global = IPv4Address(match[0]).is_global
    except ValueError:
        return False
    # Of real addresses 98 % have a part of three digits; of four-part section and version numbers next to none.
    return is_global and any(len(part) == 3 for part in match[0].split("."))


def _is_public_ipv6(match: re.Match[str]) -> bool:
    try:
        address = IPv6Address(match[0])
    except ValueError:
        return False
    # Only 2000::/3 is given out (RFC 4291): `a::b` is C++, and 12:30:45 a time.
    return address.is_global and address.packed[0] >> 5 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub("[ -]", "", match[0])
    if not _ISSUED.fullmatch(digits) or not _passes_luhn(digits):
        return False
    # Every tenth number passes the checksum, so that bare digits must be spoken of as a card.
    before = match.string[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]
    return digits != match[0] or bool(_CARD_CONTEXT.search(before))


def _passes_luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(sum(divmod(2 * value, 10)) for value in values[1::2])) % 10 == 0


def _is_iban(match: re.Match[str]) -> bool:
    account = match[0].replace(" ", "")
    moved = account[4:] + account[:4]
    return account.isascii() and int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _without_phones(line: str, region: str | None, placeholder: str) -> str:
    if not _SEVEN_DIGITS.search(line):
        return line
    from phonenumbers import Leniency, PhoneNumberMatcher

    spans = []
    if _INTERNATIONAL.search(line):
        spans += [(found.start, found.end) for found in PhoneNumberMatcher(line, None, Leniency.VALID)]
    if region is not None:  # only as its people group the digits: bare ones may be any number
        national = PhoneNumberMatcher(line, region, Leniency.STRICT_GROUPING)
        spans += [(found.start, found.end) for found in national if not found.raw_string.isdigit()]
    end = len(line)
    for start, stop in sorted(set(spans), reverse=True):
        if stop <= end:
            line, end = line[:start] + placeholder + line[stop:], start
    return line
