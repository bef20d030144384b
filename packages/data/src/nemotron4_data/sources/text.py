"""JSON lines, plain text and HTML.

HTML becomes text by resiliparse (main content, formatting preserved), which takes time quadratic in the depth of
nesting: pages nested deeper than browsers allow are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..prepare_job import CorpusConfig
from .records import Record, Refusal
from .streams import Unpacked, read_lines_of, read_whole

TOO_LONG = "longer than corpus.max_document_bytes"
_MAX_HTML_DEPTH = 512  # of browsers
_TAGS_WORTH_A_LOOK = 2_000


def read_jsonl(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record a line; blank lines are none."""
    for line in read_lines_of(stream, config.max_document_bytes):
        position = f"line {line.number}"
        if line.num_bytes > config.max_document_bytes:
            yield Refusal(position, TOO_LONG, line.content)
            continue
        if not line.content.strip():
            continue
        try:
            # A byte order mark may stand at the beginning of a file.
            text = line.content.decode("utf-8-sig" if line.number == 1 else "utf-8")
            yield Record(position, json.loads(text), line.content)
        except UnicodeDecodeError:
            yield Refusal(position, "invalid UTF-8", line.content)
        except (ValueError, RecursionError):  # ValueError: also a number of more digits than Python reads
            yield Refusal(position, "broken JSON", line.content)
    stream.check()


def read_text(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """A file that is one document."""
    content = read_whole(stream, config.max_document_bytes)
    if len(content) > config.max_document_bytes:
        yield Refusal("", TOO_LONG, content)
        return
    try:
        yield Record("", {config.text_column: content.decode("utf-8-sig"), "path": name}, content)
    except UnicodeDecodeError:
        yield Refusal("", "invalid UTF-8", content)


def read_html(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """A page that is one document."""
    content = read_whole(stream, config.max_document_bytes)
    if len(content) > config.max_document_bytes:
        yield Refusal("", TOO_LONG, content)
        return
    yield page(content, None, "", {"path": name}, config)


def page(
    content: bytes, charset: str | None, position: str, fields: dict[str, Any], config: CorpusConfig
) -> Record | Refusal:
    """The text of an HTML page as a record with `fields`; `charset` as its server declared it."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
    from resiliparse.parse.html import HTMLTree

    encoding = map_encoding_to_html5(charset) if charset else detect_encoding(content, from_html_meta=True)
    try:
        tree = HTMLTree.parse(bytes_to_str(content, encoding or "utf-8", errors="replace"))
        if content.count(b"<") > _TAGS_WORTH_A_LOOK and _is_too_deep(tree):
            return Refusal(position, "HTML nested too deeply", content)
        text = extract_plain_text(tree, main_content=True, preserve_formatting=True)
    except BaseException as error:  # resiliparse is written in Rust, whose panics are not even an `Exception`
        if type(error).__name__ != "PanicException":
            raise
        return Refusal(position, "HTML that cannot be parsed", content)
    if not text.strip():
        return Refusal(position, "HTML without text", content)
    return Record(position, {config.text_column: text, **fields}, content)


def _is_too_deep(tree: Any) -> bool:
    from resiliparse.parse.html import traverse_dom

    def look(context: Any) -> None:
        if context.depth > _MAX_HTML_DEPTH:
            raise RecursionError

    try:
        if tree.body is not None:
            traverse_dom(tree.body, look, elements_only=True)
    except RecursionError:
        return True
    return False
