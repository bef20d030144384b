"""Personal data in prose: e-mail addresses, IP addresses, phone, card and bank account numbers become placeholders.

Phone numbers, whose numbering plans no pattern describes, are found by phonenumbers (Google's libphonenumber); what has
a short public grammar and a checksum is found here: e-mail (RFC 5322's dot-atom), IP by `ipaddress`, cards by issuer,
grouping and Luhn's checksum (ISO/IEC 7812), bank accounts by the checksum of IBAN (ISO 13616). Names and places are not
searched for: that needs a model.

Addresses that belong to no one are kept: those reserved for documentation and private use, and `git@`. So are
lookalikes: `icon@2x.png` and `name@1.2.3.tgz`, section and version numbers, `in 2008::` before a listing, codes that no
country's bank issues. Replacement is idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from ..document_fields import Document
from .config import PiiConfig
from .words import language_of

# Lookbehinds come after the first character of a pattern: only then does `re` skip quickly to that character.
_EMAIL = re.compile(r"[\w.+%-](?<![\w.+%-].)[\w.+%-]*+@((?:[\w-]++\.)+[^\W\d_]{2,})(?![\w@])")
_RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE
)
# File endings that are not top-level domains; also systemd units, such as getty@tty1.service.
_FILE_NAME = re.compile(
    r"\.(?:asc|avif|bak|bmp|conf|cpp|css|csv|deb|dll|exe|gif|gz|hpp|html?|ico|jar"
    r"|java|jpe?g|jsx?|json|log|lst|mjs|patch|pdf|php|plist|png|pot?|rpm|rst|scope|service|sig|slice|socket|svgz?|tar"
    r"|tgz|tiff?|timer|toml|tsx?|txt|war|wav|webp|woff|xml|xz|ya?ml)$",
    re.IGNORECASE,
)
_SCALE_OR_VERSION = re.compile(r"\d+(?:\.\d+)?x|v?\d+(?:\.v?\d+)+", re.IGNORECASE)  # of an image, of a package
_IPV4 = re.compile(r"\d(?<![\w.-]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w-]|\.\d)")
# What precedes a section, version or object (OID) number, possibly after other such numbers.
_NUMBERED = re.compile(
    r"(?:§|\b(?:section|sect?\.|chapter|clause|article|appendix|annex|rule|paragraph|figure|table|version|release|build"
    r"|revision|rev\.|firmware|driver|oid)s?\b|\bv\.?|(?:upgrade|update|downgrade|patch|bump)(?:[ds]|ed)?(?: \w+)? to)"
    r"[\s:#(§]*(?:[\d.]+\d(?:,? (?:and|or|to|from|-) |[,;] ))*$|(?<![\w./-])(?-i:[A-Z])\w+/$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![\w:.-].)[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]*+(?![\w:])")
_SEVEN_DIGITS = re.compile(r"\d(?:[\s().\-/]{0,3}\d){6}")
_CLAUSE = re.compile(r"\d\.\d+-\d")  # 252.227-7013: phone numbers do not use both separators
_INTERNATIONAL = re.compile(r"\+\s?\(?\d")
_CARD = re.compile(r"\d(?<![\w.-]\d)\d{3}(?:([ -])\d{4}\1\d{4}\1\d{4}|([ -])\d{6}\2\d{5}|\d{9,12})(?![\w-]|\.\d)")
_ISSUED = re.compile(r"4(?:\d{12}|\d{15})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|(?:6011|65\d\d|64[4-9]\d|35\d\d)\d{12}")
_CARD_CONTEXT = re.compile(r"card|visa|master|amex|american express|\bcc\b", re.IGNORECASE)
_CONTEXT_CHARACTERS = 40
_IBAN = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# From the registry of ISO 13616; needed because one random code in a hundred passes the checksum.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


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

    def __call__(self, document: Document) -> None:
        """Scrub the text; the declared language determines how phone numbers are written."""
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
    host = match[1]
    is_file = _FILE_NAME.search(host) or _SCALE_OR_VERSION.fullmatch(host.rpartition(".")[0])
    return not (match[0].startswith("git@") or is_file or _RESERVED_HOST.search(host))


def _is_public_ipv4(match: re.Match[str]) -> bool:
    try:
        is_global = IPv4Address(match[0]).is_global
    except ValueError:
        return False
    # 98 % of real addresses have a part of three digits; few four-part section and version numbers do.
    return is_global and any(len(part) == 3 for part in match[0].split(".")) and not _is_numbered(match)


def _is_numbered(match: re.Match[str]) -> bool:
    return _NUMBERED.search(match.string[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]) is not None


def _is_public_ipv6(match: re.Match[str]) -> bool:
    try:
        address = IPv6Address(match[0])
    except ValueError:
        return False
    # Only 2000::/3 is allocated (RFC 4291): `a::b` is C++, and 12:30:45 a time. With two groups, as in `in 2008::` or
    # `face::1`, it would be the first address of a registry's whole block.
    return (
        address.is_global and address.packed[0] >> 5 == 1 and len(match[0].replace("::", ":").strip(":").split(":")) > 2
    )


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub("[ -]", "", match[0])
    if not _ISSUED.fullmatch(digits) or not _passes_luhn(digits):
        return False
    # One number in ten passes the checksum, so bare digits need a word such as "card" near them.
    before = match.string[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]
    return digits != match[0] or bool(_CARD_CONTEXT.search(before))


def _passes_luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(sum(divmod(2 * value, 10)) for value in values[1::2])) % 10 == 0


def _is_iban(match: re.Match[str]) -> bool:
    account = match[0].replace(" ", "")
    if _IBAN_LENGTHS.get(account[:2]) != len(account):
        return False
    moved = account[4:] + account[:4]
    return account.isascii() and int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _without_phones(line: str, region: str | None, placeholder: str) -> str:
    if not _SEVEN_DIGITS.search(line):
        return line
    from phonenumbers import Leniency, PhoneNumberMatcher

    spans = []
    if _INTERNATIONAL.search(line):
        spans += [(found.start, found.end) for found in PhoneNumberMatcher(line, None, Leniency.VALID)]
    if region is not None:  # only with the region's grouping of digits: ungrouped ones may be any number
        national = PhoneNumberMatcher(line, region, Leniency.STRICT_GROUPING)
        spans += [
            (found.start, found.end)
            for found in national
            if not found.raw_string.isdigit() and not _CLAUSE.search(found.raw_string)
        ]
    parts, end = [], len(line)  # from the end
    for start, stop in sorted(set(spans), reverse=True):
        if stop <= end:
            parts += [line[stop:end], placeholder]
            end = start
    return "".join([line[:end], *reversed(parts)])
