"""Fertility of a tokenizer: tokens per word and bytes per token, by natural and by programming language.

A word is a run of letters, combining marks, digits and connectors such as `_`, including apostrophes inside it
(`don't`, `max_lines`, `1984`). Han, kana, Thai, Lao, Khmer and Burmese are written without spaces, so there each
character with its marks counts as a word; a row states which of the two most of its words are. Punctuation is not a
word, but its tokens count.

Invariant: rows are a function of the documents and the tokenizer, sorted by kind and language.
Source: fertility as in arXiv 2012.15613, section 3.1; by words of the text, not of a treebank.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .document_fields import Document, FiledDocument
from .documents import document_path, read_lines
from .languages import language_of
from .tokenizer import Tokenizer

KINDS = ("natural", "programming")
_SCRIPTS_WITHOUT_SPACES = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_MAX_BYTES_PER_SOURCE = 100_000
_MAX_CHARACTERS = 1_000_000
_COLOURS = {"natural": "#2a6fbb", "programming": "#3a8f4d"}


@dataclass(kw_only=True)
class FertilityRow:
    """One language: its documents and UTF-8 bytes, its words by the module's rule, and its tokens without EOS."""

    kind: str
    """natural or programming."""
    language: str
    """Code of a natural language, or name of a programming language."""
    documents: int = 0
    bytes: int = 0
    words: int = 0
    characters: int = 0
    """Those of the words that are single characters of scripts without spaces."""
    tokens: int = 0

    @property
    def counted(self) -> str:
        """What most words are: words, or characters."""
        return "characters" if 2 * self.characters > self.words else "words"

    @property
    def tokens_per_word(self) -> float:
        """Lower is better; nan where there is no word."""
        return self.tokens / self.words if self.words else float("nan")

    @property
    def bytes_per_token(self) -> float:
        """Higher is better; nan where there is no token."""
        return self.bytes / self.tokens if self.tokens else float("nan")


def fertility(documents: Iterable[Document], tokenizer: Tokenizer) -> list[FertilityRow]:
    """One row per language of documents."""
    rows: dict[tuple[str, str], FertilityRow] = {}
    for document in documents:
        kind = KINDS[document["source"].split("/")[0] == "code"]
        key = kind, language_of(document)
        row = rows.setdefault(key, FertilityRow(kind=kind, language=key[1]))
        words, characters = count_words(document["text"])
        row.documents += 1
        row.bytes += len(document["text"].encode())
        row.words += words
        row.characters += characters
        row.tokens += len(tokenizer.encode(document["text"]))
    return [row for _, row in sorted(rows.items())]


def sample_documents(
    documents: Path, sources: Mapping[str, Iterable[str]], max_bytes_per_source: int = _MAX_BYTES_PER_SOURCE
) -> Iterator[Document]:
    """The first documents of each source, with source and split filled in: held-out if it has any, otherwise training.

    `sources` gives the splits of each source; whole documents are taken until they reach the limit, but at most a
    million characters of each.
    """
    for source, splits in sorted(sources.items()):
        split, num_bytes = min(splits), 0  # heldout before train
        for line in read_lines(document_path(documents, source, split)):
            filed: FiledDocument = json.loads(line)
            document: Document = {**filed, "source": source, "split": split}
            document["text"] = document["text"][:_MAX_CHARACTERS]
            yield document
            num_bytes += len(document["text"].encode())
            if num_bytes >= max_bytes_per_source:
                break


def count_words(text: str) -> tuple[int, int]:
    """Words of a text, and how many of them are single characters of scripts without spaces."""
    words = characters = 0
    for found in _word().finditer(text):
        words += 1
        characters += found.lastgroup == "character"
    return words, characters


@cache
def _word() -> Any:
    import regex

    unspaced = "".join(rf"\p{{{script}}}" for script in _SCRIPTS_WITHOUT_SPACES)
    letter = rf"[\w--[{unspaced}]]"
    return regex.compile(rf"(?V1)(?P<character>[{unspaced}&&[\p{{L}}\p{{N}}]]\p{{M}}*)|{letter}+(?:['’]{letter}+)*")


def fertility_chart(rows: Sequence[FertilityRow]) -> str:
    """A standalone SVG: for each language a bar of tokens per word and one of bytes per token, the best first."""
    rows = sorted(rows, key=lambda row: (row.kind, row.tokens_per_word, row.language))
    pitch, top, left, width, gap = 15, 40, 130, 330, 60
    height = top + pitch * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + 2 * width + 2 * gap} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11"><title>Fertility by language</title>'
    ]
    panels = (("tokens per word (lower is better)", "tokens_per_word"), ("bytes per token", "bytes_per_token"))
    for panel, (title, field) in enumerate(panels):
        x = left + panel * (width + gap)
        values = [getattr(row, field) for row in rows]
        longest = max((value for value in values if value == value), default=1.0)  # nan != nan
        parts.append(f'<text x="{x}" y="20" font-size="13" fill="#222">{title}</text>')
        for number, (row, value) in enumerate(zip(rows, values, strict=True)):
            y = top + pitch * number
            if not panel:
                name = html.escape(row.language + (" *" if row.counted == "characters" else ""))
                parts.append(f'<text x="{left - 8}" y="{y + 10}" text-anchor="end" fill="#222">{name}</text>')
            if value == value:
                bar = value / longest * width
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{bar:.1f}" height="{pitch - 3}" fill="{_COLOURS[row.kind]}"/>'
                    f'<text x="{x + bar + 4:.1f}" y="{y + 10}" fill="#555">{value:.2f}</text>'
                )
    return "".join([*parts, "</svg>\n"])
