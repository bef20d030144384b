"""JSON lines, plain text and HTML.

HTML becomes text by resiliparse (main content, formatting preserved), which takes time quadratic in the nesting depth,
so pages nested deeper than browsers allow are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..documents import TOO_LONG
from ..prepare_job import CorpusConfig
from .records import Record, Refusal
from .streams import Unpacked, read_lines_of, read_whole

TOO_DEEP = "JSON nested too deeply"
# Of lists and objects. Whether Python can read deeper ones depends on its version and the remaining stack.
MAX_JSON_DEPTH = 200
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|([\[{])|[\]}]', re.DOTALL)
_parse = json.JSONDecoder().decode  # the same as `json.loads` for text, but cheaper per line
_MAX_HTML_DEPTH = 512  # as in browsers
_TAGS_WORTH_A_LOOK = 2_000


def read_jsonl(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record per line; blank lines are skipped."""
    for line in read_lines_of(stream, config.max_document_bytes):
        position = f"line {line.number}"
        if line.num_bytes > config.max_document_bytes:
            yield Refusal(position, TOO_LONG, line.content)
            continue
        if not line.content.strip():
            continue
        try:
            # A file may begin with a byte order mark.
            text = line.content.decode("utf-8-sig" if line.number == 1 else "utf-8")
            value = _parse(text)
        except UnicodeDecodeError:
            yield Refusal(position, "invalid UTF-8", line.content)
            continue
        except (ValueError, RecursionError) as error:  # ValueError: also for a number with too many digits for Python
            too_deep = _depth_as_written(line.content) > MAX_JSON_DEPTH
            if isinstance(error, RecursionError) and not too_deep:
                raise
            yield Refusal(position, TOO_DEEP if too_deep else "broken JSON", line.content)
            continue
        if len(text) > 2 * MAX_JSON_DEPTH and _is_deep(value):
            yield Refusal(position, TOO_DEEP, line.content)
        else:
            yield Record(position, value, line.content)
    stream.check()


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than MAX_JSON_DEPTH deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_JSON_DEPTH):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _depth_as_written(line: bytes) -> int:
    """Maximum bracket depth of JSON that may be broken; counting stops just above the limit."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(line):
        if match[0][:1] != b'"':
            depth += 1 if match[1] else -1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                break
    return deepest


def read_text(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """A file that is one document."""
    content = read_whole(stream, config.max_document_bytes)
    if len(content) > config.max_document_bytes:
        yield Refusal("", TOO_LONG, content)
        return
    try:
        yield Record("", config.columns.to_record({"text": content.decode("utf-8-sig"), "path": name}), content)
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
    """The text of an HTML page as a record with `fields`; `charset` is what the server declared."""
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
    return Record(position, config.columns.to_record({**fields, "text": text}), content)


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
