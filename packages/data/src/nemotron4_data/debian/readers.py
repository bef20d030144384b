"""One reader per kind of file: members of an archive in, `Text` records (path-like name, plain text, language) out.

A reader only turns bytes into text; cleaning, splitting and shares come later. It raises ValueError or another of
`READ_ERRORS` on a member it cannot read.
"""

from __future__ import annotations

import re
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from .archives import gunzip
from .localized import localized_path, mo_strings, pack_strings, pak_strings, xpi_strings
from .reference import (
    read_descriptions,
    read_dictd,
    read_factbook,
    read_fortunes,
    read_stardict,
    read_udhr,
    read_wordnet,
)
from .sword import read_sword
from .text import Members, Text

#: What the readers raise on damaged members.
READ_ERRORS = (ValueError, KeyError, IndexError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile, EOFError)


def read_plain(members: Members) -> Iterator[Text]:
    """Files that are already text (code, .txt), gzipped or not; those that are not UTF-8 are skipped."""
    for path, data in members:
        path, data = _inflate(path, data)
        try:
            yield Text(path, data.decode("utf-8"))
        except UnicodeDecodeError:
            continue


def _inflate(path: str, data: bytes) -> tuple[str, bytes]:
    return (path.removesuffix(".gz"), gunzip(data)) if path.endswith(".gz") else (path, data)


def read_html(members: Members) -> Iterator[Text]:
    """Main content of HTML pages; the folder gives the language (`/de/`, `/de-DE/`)."""
    from resiliparse.extract.html2text import extract_plain_text

    for path, data in members:
        path, data = _inflate(path, data)
        text = extract_plain_text(_decode_page(data), main_content=True, preserve_formatting=True)
        text = re.sub("[\u00b6\uf0c1]", "", text)
        yield Text(path.removesuffix(".html"), text, localized_path(path))


def _decode_page(data: bytes) -> str:
    """Decode by the encoding that the head of the page declares, otherwise as UTF-8."""
    declared = re.search(rb"""(?:charset|encoding)=["']?([\w-]+)""", data[:2048])
    try:
        return data.decode(declared.group(1).decode() if declared else "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def read_mallard(members: Members) -> Iterator[Text]:
    """GNOME help pages: paragraphs and titles of the body, without the <info> head."""
    from lxml import etree

    parser = etree.XMLParser(recover=True, resolve_entities=False)
    for path, data in members:
        root = etree.fromstring(data, parser)
        if root is None:
            continue
        blocks = []
        for element in root.iter("{*}title", "{*}p", "{*}code", "{*}screen"):
            if any(etree.QName(parent).localname in ("info", "credit") for parent in element.iterancestors()):
                continue
            blocks.append(re.sub(r"\s+", " ", "".join(element.itertext())).strip())
        yield Text(path.removesuffix(".page"), "\n\n".join(block for block in blocks if block), localized_path(path))


def read_man(members: Members, mandoc: Path) -> Iterator[Text]:
    """Manual pages as mandoc renders them, without its page header and overstrikes; pages that only refer to another
    are skipped."""
    command = [str(mandoc), "-Kutf-8", "-Tutf8", "-Owidth=1000,indent=0"]
    for path, data in members:
        path, data = _inflate(path, data)
        if data.startswith(b".so"):
            continue
        page = subprocess.run(command, input=data, capture_output=True).stdout.decode("utf-8", "replace")
        lines = re.sub(".\b|[_─]{40,}", "", page).splitlines()[1:-1]
        yield Text(path, "\n".join(re.sub(r"  +", lambda m: m.group() if m.start() == 0 else " ", x) for x in lines))


def read_pod(members: Members) -> Iterator[Text]:
    """Perl's documentation format, without its commands and formatting codes."""
    for path, data in members:
        path, data = _inflate(path, data)
        text = data.decode("utf-8")
        text = "\n\n".join(re.findall(r"^=(?:pod|head\d|encoding|item|over|begin).*?(?=^=cut\b|\Z)", text, re.M | re.S))
        text = re.sub(r"^=(pod|cut|encoding|over|back|begin|end|for)\b.*\n?", "", text, flags=re.M)
        text = re.sub(r"^=(head\d|item) *\*? *", "", text, flags=re.M)
        text = re.sub(r"\b[BCFIS](<<+) (.*?) >>+", r"\2", text)
        for _ in range(3):
            text = re.sub(r"\bL<(?:([^<>|]*)\|)?([^<>]*)>", lambda m: m.group(1) or m.group(2), text)
            text = re.sub(r"\b(?:[XZ]<[^<>]*>|[BCFIS]<([^<>]*)>)", lambda m: m.group(1) or "", text)
        yield Text(path, text.replace("E<lt>", "<").replace("E<gt>", ">"))


def _read_strings(members: Members, strings: Callable[[bytes], Iterator[str]]) -> Iterator[Text]:
    for path, data in members:
        language = localized_path(path)
        if language:
            yield from (Text(f"{path}-{n:03d}", text, language) for n, text in pack_strings(strings(data)))


def read_pak(members: Members) -> Iterator[Text]:
    """Interface strings of Chromium, sentences only, packed into texts."""
    return _read_strings(members, pak_strings)


def read_xpi(members: Members) -> Iterator[Text]:
    """Interface strings of a Firefox language pack, sentences only, packed into texts."""
    return _read_strings(members, xpi_strings)


def read_mo(members: Members) -> Iterator[Text]:
    """Translations in gettext catalogues, sentences only, packed into texts."""
    return _read_strings(members, mo_strings)


Reader = Callable[[Members], Iterator[Text]]

READERS: dict[str, Reader] = {
    "plain": read_plain,
    "html": read_html,
    "mallard": read_mallard,
    "pod": read_pod,
    "sword": read_sword,
    "dictd": read_dictd,
    "stardict": read_stardict,
    "wordnet": read_wordnet,
    "fortunes": read_fortunes,
    "factbook": read_factbook,
    "udhr": read_udhr,
    "descriptions": read_descriptions,
    "pak": read_pak,
    "xpi": read_xpi,
    "mo": read_mo,
}

#: Readers that need all members of the archive at once.
WHOLE_ARCHIVE = frozenset({"sword", "descriptions"})
