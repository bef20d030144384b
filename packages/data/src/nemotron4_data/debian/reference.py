"""Readers of reference works and collections: dictionaries, WordNet, country profiles, quotations, the Universal
Declaration of Human Rights, and the package descriptions of apt's lists."""

from __future__ import annotations

import html
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from .archives import gunzip
from .languages import language_of_code
from .localized import language_of_udhr
from .text import Members, Text

#: A dictionary's articles are much alike, so only this many bytes of its text with markup are read.
_STARDICT_BYTES = 12_000_000
#: Package descriptions are joined, in the order of their names, into texts of about this size.
_DESCRIPTIONS_BYTES = 8_000


def read_dictd(members: Members) -> Iterator[Text]:
    """A dictd database (.dict.dz is gzip): the whole text, header entries removed."""
    for path, data in members:
        text = gunzip(data).decode("utf-8", "replace")
        yield Text(path.removesuffix(".dict.dz"), re.sub(r"(?s)\A.*?\n(?=A{1,2}\b)", "", text, count=1))


def read_stardict(members: Members) -> Iterator[Text]:
    """A StarDict dictionary (.dict.dz is gzip): its first articles without Pango markup."""
    for path, data in members:
        text = zlib.decompressobj(wbits=31).decompress(data, _STARDICT_BYTES).decode("utf-8", "replace")
        text = re.sub(r"(?<=\S)(?=<i><small>\([^)]*\) )", "\n\n", text)  # articles begin with their pronunciation
        yield Text(path.removesuffix(".dict.dz"), html.unescape(re.sub(r"<[^<>\n]*>", "", text)))


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


def read_fortunes(members: Members) -> Iterator[Text]:
    """Quotations of a fortune database, separated by blank lines."""
    for path, data in members:
        quotations = re.split(r"\n%+\n", data.decode("utf-8"))
        yield Text(path, "\n\n".join(text.strip("\n%") for text in quotations if text.strip("\n%")))


def read_factbook(members: Members) -> Iterator[Text]:
    """Country profiles: the nested JSON as paragraphs with headings."""
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
    """The Universal Declaration of Human Rights, a few articles per text so that both splits can get some."""
    from lxml import etree

    for path, data in members:
        language = language_of_udhr(path)
        if language is None:
            continue
        root = etree.HTML(data.decode("utf-8"))
        blocks = [" ".join("".join(node.itertext()).split()) for node in root.iter("h1", "h2", "h3", "h4", "p", "li")]
        for start in range(0, len(blocks), 18):
            yield Text(f"{path.removesuffix('.html')}-{start:03d}", "\n\n".join(blocks[start : start + 18]), language)


def read_descriptions(members: Members) -> Iterator[Text]:
    """Package descriptions in apt's lists: name, summary, paragraphs; repeated paragraphs are omitted."""
    seen: set[tuple[str, int]] = set()
    for path, data in members:
        code = path.rsplit("Translation-", 1)[-1]
        language = "en" if code == "en" else language_of_code(code)
        if language is None:
            continue
        texts: list[str] = []
        first, num_bytes = "", 0
        for stanza in data.decode("utf-8", "replace").split("\n\n"):
            match = re.search(r"^Package: (\S+)\n(?:.*\n)*?Description-(?!md5)\w+: (.*)\n((?: .*\n?)*)", stanza)
            if match is None:
                continue
            name, summary, body = match.groups()
            paragraphs = [_unwrap(part) for part in re.split(r"^ \.\n", body, flags=re.M)]
            new = [part for part in paragraphs if part and (language, zlib.crc32(part.encode())) not in seen]
            seen.update((language, zlib.crc32(part.encode())) for part in new)
            if not new:
                continue
            texts.append("\n".join([f"{name}: {summary}", *new]))
            first, num_bytes = first or name, num_bytes + len(texts[-1].encode())
            if num_bytes > _DESCRIPTIONS_BYTES:
                yield Text(f"{path}/{first}", "\n\n".join(texts), language)
                texts, first, num_bytes = [], "", 0
        if texts:
            yield Text(f"{path}/{first}", "\n\n".join(texts), language)


def _unwrap(paragraph: str) -> str:
    """Join wrapped lines; lines indented further are lists or listings and are kept."""
    lines = [line[1:] for line in paragraph.splitlines()]
    return "\n".join(lines) if any(line.startswith(" ") for line in lines) else " ".join(lines)
