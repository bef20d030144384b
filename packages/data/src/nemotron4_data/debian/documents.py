"""From texts to documents, by structure only: control characters, navigation, minified files, splitting.

Quality, language and duplicates are judged later, by the curation that every corpus goes through.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from .text import Text

MIN_BYTES = 120
#: A longer text is split; source files never are.
MAX_BYTES = 32_000
MAX_CODE_BYTES = 256_000
_MAX_LINE_CHARS = 1_000
_MAX_MEAN_LINE_BYTES = 100
#: Navigation is learned from this many pages of a row.
_SAMPLE_PAGES = 400

#: A line is English if a large enough part of its words are among these; short lines are not judged.
_ENGLISH = re.compile(r"\b(?:the|and|with|this|that|you|your|from|which)\b", re.I | re.A)
_MIN_ENGLISH_SHARE = 0.07
_MIN_JUDGED_CHARS = 20

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff\ufffd\ue000-\uf8ff]")


def clean_text(text: str) -> str:
    """NFC, newlines as \\n, without control characters, trailing blanks and runs of blank lines; ends in a newline."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " "))
    text = _CONTROL.sub("", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"


def drop_untranslated_lines(text: str) -> str:
    """Remove the lines of a translation that were left in English, recognised by function words.

    A tenth of the supposedly translated text is English; the words chosen are rare in the other languages.
    """
    return "\n".join(line for line in text.split("\n") if not _is_english(line))


def _is_english(line: str) -> bool:
    if len(line) < _MIN_JUDGED_CHARS or not _ENGLISH.search(line):
        return False
    return len(_ENGLISH.findall(line)) >= _MIN_ENGLISH_SHARE * len(line.split())


def is_source_code(text: str) -> bool:
    """Whether a file looks like code that people write: not huge, minified, or a table in one line."""
    lines = text.splitlines() or [""]
    size = len(text.encode())
    return (
        MIN_BYTES <= size <= MAX_CODE_BYTES
        and "\0" not in text
        and max(map(len, lines)) <= _MAX_LINE_CHARS
        and size / len(lines) <= _MAX_MEAN_LINE_BYTES
    )


def drop_repeated_lines(texts: Iterable[Text]) -> Iterator[Text]:
    """Remove lines that are on over a tenth of the first pages: navigation and footers. Keeps those pages in memory."""
    pages = iter(texts)
    sample = list(itertools.islice(pages, _SAMPLE_PAGES))
    counts = Counter(line for page in sample for line in set(page.text.splitlines()) if len(line) > 3)
    repeated = {line for line, count in counts.items() if count >= max(20, len(sample) / 10)}
    for page in itertools.chain(sample, pages):
        lines = [line for line in page.text.splitlines() if line not in repeated]
        yield Text(page.name, "\n".join(lines), page.language)


def split_text(text: str, max_bytes: int) -> list[str]:
    """Pieces of nearly equal size, none over `max_bytes`, cut at blank lines, or else lines, or else sentences."""
    size = len(text.encode())
    if size <= max_bytes:
        return [text]
    goal = size / -(-size // max_bytes)
    pieces: list[str] = []
    current: list[str] = []
    current_bytes = 0
    for part in _parts(text, max_bytes // 4):
        part_bytes = len(part.encode())
        if current and current_bytes + part_bytes / 2 > goal:
            pieces.append("".join(current))
            current, current_bytes = [], 0
        current.append(part)
        current_bytes += part_bytes
    pieces.append("".join(current))
    return [piece.strip("\n") + "\n" for piece in pieces if piece.strip()]


def _parts(
    text: str, max_bytes: int, separators: tuple[str, ...] = (r"(?<=\n\n)", r"(?<=\n)", r"(?<=[.!?] )")
) -> Iterator[str]:
    if len(text.encode()) <= max_bytes or not separators:
        yield text
        return
    for part in re.split(separators[0], text):
        yield from _parts(part, max_bytes, separators[1:])
