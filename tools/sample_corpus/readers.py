"""One reader per kind of file: an archive in, `Text` records (path-like name, plain text, language) out.

A reader only turns bytes into text; cleaning, language checks, splitting and capping come later.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from localized import language_of_udhr, localized_path, pack_strings, pak_strings, xpi_strings
from lxml import etree
from resiliparse.extract.html2text import extract_plain_text

Members = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class Text:
    """A text as found in an archive; `language` is None where the row decides it."""

    name: str
    text: str
    language: str | None = None


def read_plain(members: Members) -> Iterator[Text]:
    """Files that are text already (code, .txt), gzip or not; not UTF-8 means skipped."""
    for path, data in members:
        if path.endswith(".gz"):
            path, data = path.removesuffix(".gz"), gzip.decompress(data)
        try:
            yield Text(path, data.decode("utf-8"))
        except UnicodeDecodeError:
            continue


def read_html(members: Members) -> Iterator[Text]:
    """Main content of HTML pages; the language is read off the folder (`/de/`, `/de-DE/`)."""
    for path, data in members:
        text = extract_plain_text(data.decode("utf-8", "replace"), main_content=True, preserve_formatting=True)
        text = re.sub("[\u00b6\uf0c1]", "", text)
        yield Text(path.removesuffix(".html"), text, localized_path(path))


def read_mallard(members: Members) -> Iterator[Text]:
    """GNOME help pages: paragraphs and titles of the body, without the <info> head."""
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


def read_sword(members: Members) -> Iterator[Text]:
    """SWORD modules: zlib blocks (index of 3 x uint32) that hold verses (index of uint32, uint32, uint16 or uint32)."""
    files = dict(members)
    for path in sorted(name for name in files if name.endswith("zz")):
        stem, unit = path[:-3], path[-3]
        blocks = [
            zlib.decompress(files[path][start : start + size])
            for start, size, _ in struct.iter_unpack("<III", files[f"{stem}{unit}zs"])
            if size
        ]
        texts: dict[int, list[str]] = {}
        entry = struct.Struct("<III" if unit == "c" and len(files[f"{stem}{unit}zv"]) % 12 == 0 else "<IIH")
        seen = set()
        for block, start, size in entry.iter_unpack(files[f"{stem}{unit}zv"]):
            if size and (block, start) not in seen:
                seen.add((block, start))
                texts.setdefault(block, []).append(
                    _strip_osis(blocks[block][start : start + size].decode("utf-8", "replace"))
                )
        for block in sorted(texts):
            yield Text(f"{stem.rstrip('.')}-{block:04d}", "\n".join(text for text in texts[block] if text))


def _strip_osis(text: str) -> str:
    text = re.sub(r"<note\b.*?</note>|<title type=\"runningHead\".*?</title>", "", text, flags=re.S)
    text = re.sub(r"<(/?(p|div|lg|title|list|item)|l|lb|br|milestone)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines() if line.strip())


def read_dictd(members: Members) -> Iterator[Text]:
    """A dictd database (.dict.dz is gzip): the whole text, header entries removed."""
    for path, data in members:
        text = gzip.decompress(data).decode("utf-8", "replace")
        yield Text(path.removesuffix(".dict.dz"), re.sub(r"(?s)\A.*?\n(?=A{1,2}\b)", "", text, count=1))


def read_wordnet(members: Members) -> Iterator[Text]:
    """WordNet data files as lines `words (part of speech): gloss`, 40 synsets to a text."""
    for path, data in members:
        lines = []
        for line in data.decode("utf-8").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            fields, gloss = line.split(" | ", 1)
            columns = fields.split(" ")
            words = [columns[4 + 2 * i].replace("_", " ") for i in range(int(columns[3], 16))]
            lines.append(f"{', '.join(re.sub(r'[(].*[)]$', '', word) for word in words)}: {gloss.strip()}")
        for start in range(0, len(lines), 40):
            yield Text(f"{path}-{start:06d}", "\n".join(lines[start : start + 40]))


def read_factbook(members: Members) -> Iterator[Text]:
    """Country profiles: the nested JSON as headed paragraphs."""
    for path, data in members:
        lines: list[str] = []
        _flatten_profile(json.loads(data), 1, lines)
        yield Text(path.removesuffix(".json"), "\n".join(lines))


def _flatten_profile(node: dict[str, Any], depth: int, lines: list[str]) -> None:
    for key, value in node.items():
        if isinstance(value, dict) and set(value) == {"text"}:
            lines.append(f"{key}: {value['text']}")
        elif isinstance(value, dict):
            lines.extend(["", key, ""] if depth == 1 else [f"{key}:"])
            _flatten_profile(value, depth + 1, lines)
        else:
            lines.append(f"{key}: {value}" if key != "text" else str(value))


def read_udhr(members: Members) -> Iterator[Text]:
    """The Universal Declaration of Human Rights, a few articles to a text so that both splits can hold some."""
    for path, data in members:
        language = language_of_udhr(path)
        if language is None:
            continue
        root = etree.HTML(data.decode("utf-8"))
        blocks = [" ".join("".join(node.itertext()).split()) for node in root.iter("h1", "h2", "h3", "h4", "p", "li")]
        for start in range(0, len(blocks), 18):
            yield Text(f"{path.removesuffix('.html')}-{start:03d}", "\n\n".join(blocks[start : start + 18]), language)


def read_pak(members: Members) -> Iterator[Text]:
    """Interface strings of Chromium, sentences only, packed into texts."""
    for path, data in members:
        language = localized_path(path)
        if language:
            yield from (Text(f"{path}-{n:03d}", text, language) for n, text in pack_strings(pak_strings(data)))


def read_xpi(members: Members) -> Iterator[Text]:
    """Interface strings of a Firefox language pack, sentences only, packed into texts."""
    for path, data in members:
        language = localized_path(path)
        if language:
            yield from (Text(f"{path}-{n:03d}", text, language) for n, text in pack_strings(xpi_strings(data)))


READERS: dict[str, Callable[[Members], Iterator[Text]]] = {
    "plain": read_plain,
    "html": read_html,
    "mallard": read_mallard,
    "sword": read_sword,
    "dictd": read_dictd,
    "wordnet": read_wordnet,
    "factbook": read_factbook,
    "udhr": read_udhr,
    "pak": read_pak,
    "xpi": read_xpi,
}
