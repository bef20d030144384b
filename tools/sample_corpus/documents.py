"""From raw text to documents: cleaning, quality and language gates, splitting at natural boundaries, ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from py3langid.langid import LanguageIdentifier
from sources import Source

from nemotron4_data.debian.documents import clean_text, split_text
from nemotron4_data.debian.languages import LANGUAGES
from nemotron4_data.debian.text import Text

MIN_BYTES = 200
#: A longer text is split; pieces are shorter in the small domains, so that both splits get some of every source.
MAX_BYTES = {"english": 16_000, "multilingual": 4_000, "code": 6_000}
MAX_CODE_FILE_BYTES = 60_000

COPYLEFT = re.compile(
    r"\b[AL]?GPL\b|GNU (Lesser |Library |Affero )?General Public|CeCILL|NonCommercial|non-commercial", re.I
)
GENERATED = re.compile(r"DO NOT (EDIT|MODIFY)|@generated|[Aa]uto-?generated|[Gg]enerated (by|from|automatically)", re.I)
LICENSE_WORDS = re.compile(r"copyright|licen[sc]e|permission|warrant|SPDX-|public domain", re.I)
COMMENT_LINE = re.compile(r"\s*(#(?!\[|!|include|if|define|pragma)|//|--|;|%|!|/?\*|\(\*|\{-|\"|'|C |dnl |:: |\|#)")
COMMENT_BLOCKS = (r"/\*.*?\*/", r"\(\*.*?\*\)", r"\{-.*?-\}", r"#\|.*?\|#", r"#=.*?=#", r"<!--.*?-->", r'""".*?"""')
#: Navigation that main-content extraction leaves in the pages of some packages.
CHROME = re.compile(
    r"^(\s*Prev\b.*(Up|Home|Next).*|.*\|  ?en  ?\|.*|<-|->|top|Indice|Next|Prev"
    r"|population pyramid: None|Table of Contents)[ \t]*$\n?",
    re.M,
)


@dataclass(frozen=True)
class Document:
    """One line of the corpus, before it is assigned a split; `source` is `DOMAIN/CATEGORY`."""

    id: str
    text: str
    source: str
    language: str
    origin: str
    holders: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of the text in UTF-8."""
        return len(self.text.encode())


def make_documents(source: Source, texts: Iterable[Text]) -> Iterator[Document]:
    """Clean, gate and split the texts of one row."""
    kept = [(text, cleaned) for text in texts if (cleaned := clean_text(text.text)) and _accept(source, text)]
    if source.reader in ("html", "mallard"):
        kept = _without_repeated_lines(kept)
    for text, cleaned in kept:
        if source.domain == "english" and source.reader == "html":
            cleaned = clean_text(CHROME.sub("", cleaned))
        if source.domain == "code":
            cleaned = strip_license_header(cleaned)
        if source.domain == "multilingual" and source.reader != "udhr":
            cleaned = _gate_language(cleaned, text.language or "")
        if source.domain == "english" and _letter_share(cleaned) < 0.6:
            continue
        pieces = [p for p in split_text(cleaned, MAX_BYTES[source.domain]) if len(p.encode()) >= MIN_BYTES]
        for number, piece in enumerate(pieces, start=1):
            name = _short_name(text.name) + (f"-{number:03d}" if len(pieces) > 1 else "")
            language = (
                text.language
                if source.domain == "multilingual"
                else "en"
                if source.domain == "english"
                else source.category
            )
            category = source.category or language
            holders = _copyright_lines(text.text) if source.domain == "code" else ()
            yield Document(
                f"{source.origin}/{name}", piece, f"{source.domain}/{category}", language or "", source.origin, holders
            )


def _short_name(name: str) -> str:
    name = re.sub(r"^(usr/(share|lib|include)/(doc/|x86_64-linux-gnu/|sword/modules/)?|package/)", "", name)
    return re.sub(r"\s", "_", re.sub(r"(langpack-)|(@firefox-esr.mozilla.org)", "", name))


def _copyright_lines(text: str) -> tuple[str, ...]:
    """Copyright lines in the head of a source file, kept for the attribution because the head itself is stripped."""
    lines = (re.sub(r"^[\s/*#;%!\"'(){|-]+|[\s*/]+$", "", line) for line in text[:3000].splitlines())
    return tuple(
        line[:160]
        for line in lines
        if re.match(r"(Portions )?(Copyright|\(c\)|\u00a9|Author)", line, re.I) and len(line) > 12
    )


def _letter_share(text: str) -> float:
    return sum(map(str.isalpha, text)) / max(1, sum(not c.isspace() for c in text)) if text else 0.0


def _accept(source: Source, text: Text) -> bool:
    if source.require and not re.search(source.require, text.text):
        return False
    if source.domain == "multilingual":
        return text.language is not None
    if source.domain == "english":
        return True
    lines = text.text.splitlines() or [""]
    size = len(text.text.encode())
    shapely = max(map(len, lines)) <= 1000 and size / len(lines) <= 100 and size <= MAX_CODE_FILE_BYTES
    return shapely and not COPYLEFT.search(text.text) and not GENERATED.search(text.text[:2000])


def _without_repeated_lines(kept: list[tuple[Text, str]]) -> list[tuple[Text, str]]:
    """Drop lines that occur on at least a tenth (and 20) of a package's pages: navigation and footers."""
    pages = Counter(line for _, text in kept for line in set(text.splitlines()) if line.strip())
    chrome = {line for line, count in pages.items() if count >= max(20, len(kept) / 10) and len(line) > 3}
    return [
        (text, clean_text("\n".join(line for line in cleaned.splitlines() if line not in chrome)))
        for text, cleaned in kept
    ]


def strip_license_header(text: str) -> str:
    """Remove leading comments about copyright or licence from a code file; `#!`, `<?php` and pragmas stay."""
    shebang = re.match(r"(#!.*\n|<\?php.*\n|\{-#.*\n)+\n*", text)
    head = shebang.group() if shebang else ""
    body = text[len(head) :]
    for _ in range(6):
        body = body.lstrip("\n")
        block = _leading_comment(body)
        if not block or not LICENSE_WORDS.search(block):
            break
        body = body[len(block) :]
    return head + body.lstrip("\n")


def _leading_comment(text: str) -> str:
    for pattern in COMMENT_BLOCKS:
        match = re.match(pattern + r"[ \t]*\n?", text, re.S)
        if match:
            return match.group()
    lines = []
    for line in text.splitlines(keepends=True):
        if not COMMENT_LINE.match(line):
            break
        lines.append(line)
    return "".join(lines)


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid import langid

    identifier = LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    known = set(identifier.nb_classes)
    identifier.set_languages(sorted(known & ({"en", "nb", "nn"} | set(LANGUAGES))))
    return identifier


def _detect(text: str) -> str:
    language = str(_identifier().classify(text[:3000])[0])
    return "no" if language in ("nb", "nn") else language


def _looks_english(line: str, language: str) -> bool:
    """Whether English is likelier than `language`; Norwegian is scored as Bokmål or Nynorsk."""
    scores = dict(_identifier().rank(line[:1000]))
    own = max(scores.get(code, float("-inf")) for code in (language, *(("nb", "nn") if language == "no" else ())))
    return scores["en"] > own


def _gate_language(text: str, language: str) -> str:
    """Drop English lines; if the rest is not in `language`, drop the whole text."""
    lines = [line for line in CHROME.sub("", text).split("\n") if len(line) < 12 or not _looks_english(line, language)]
    text = clean_text("\n".join(lines))
    return text if len(text.encode()) >= MIN_BYTES and _detect(text) == language else ""
