"""Web archives (ISO 28500): the pages of responses, resources and conversions.

Invariant: an error in a record ends only that record; reading resumes at the next line that begins one. A record whose
bytes end before its declared length is damage, not a shorter page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from ..documents import TOO_LONG
from ..prepare_job import CorpusConfig
from .http_response import parse_response
from .records import Record, Refusal
from .streams import Damaged, Unpacked
from .text import page

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_KINDS = ("response", "resource", "conversion")
_VERSION = re.compile(rb"WARC/\d+\.\d+\s*$")
_NEXT_RECORD = re.compile(rb"\n\r?\n(?=WARC/\d+\.\d+\r?\n)")
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_DAMAGED_RECORD = "damaged web record"
_MAX_LINE_BYTES = 1 << 16
_MAX_HEADERS = 1000
_CHUNK_BYTES = 1 << 20


class _Lines:
    """Reads a stream by lines or by bytes; bytes can be pushed back."""

    def __init__(self, stream: Unpacked) -> None:
        self._ahead = io.BytesIO()
        self._file = io.BufferedReader(stream)

    def readline(self) -> bytes:
        """The next line, or a part of one that is too long for a header."""
        line = self._ahead.readline(_MAX_LINE_BYTES)
        return line if line[-1:] == b"\n" else line + self._file.readline(_MAX_LINE_BYTES)

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the end."""
        part = self._ahead.read(num_bytes)
        return part if len(part) == num_bytes else part + self._file.read(num_bytes - len(part))

    def give_back(self, content: bytes) -> None:
        """Push back `content`, to be read next."""
        self._ahead = io.BytesIO(content + self._ahead.read())


def read_warc(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record per page. Requests, metadata and revisits hold none."""
    lines = _Lines(stream)
    number = 0
    while line := lines.readline():
        if not _VERSION.match(line):
            if stray := _skip_to_record(lines, line):
                yield Refusal(f"after record {number}", _DAMAGED_RECORD, stray)
            continue
        number += 1
        position = f"record {number}"
        headers = _headers(lines)
        length = headers.get("content-length", "")
        if not _LENGTH.fullmatch(length):
            stream.check()
            yield Refusal(position, _DAMAGED_RECORD, b"its header is cut or has no Content-Length")
            continue
        wanted = headers.get("warc-type", "").lower() in _KINDS
        fits = int(length) <= config.max_document_bytes
        block, num_bytes = _block(lines, int(length), wanted and fits)
        line = lines.readline()
        if _VERSION.match(line):
            lines.give_back(line)
        elif num_bytes < int(length) or line.strip():
            stream.check()
            next_record = _NEXT_RECORD.search(block := block + line)
            if next_record is None and num_bytes < int(length):
                reason = f"{position} ends after {num_bytes} of {length} bytes"
                raise Damaged(reason, lost=num_bytes / max(1, stream.tell()))
            yield Refusal(position, _DAMAGED_RECORD, b"it is longer or shorter than its Content-Length")
            lines.give_back(block[next_record.end() :] if next_record else line)
            continue
        if wanted:
            yield _page(headers, block, position, config) if fits else Refusal(position, TOO_LONG)
    stream.check()


def _skip_to_record(lines: _Lines, line: bytes) -> bytes:
    """Describes the bytes before the next record; empty if they are blank."""
    first, num_bytes = line.strip(), 0
    while line and not _VERSION.match(line):
        first = first or line.strip()
        num_bytes += len(line)
        line = lines.readline()
    lines.give_back(line)
    return b"%d bytes that are no web record: %s" % (num_bytes, first) if first else b""


def _headers(lines: _Lines) -> dict[str, str]:
    """The headers of a record by lower-case name; empty if they do not end."""
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        line = lines.readline()
        if not line.endswith(b"\n"):
            break
        if not line.strip():
            return headers
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    return {}


def _block(lines: _Lines, length: int, keep: bool) -> tuple[bytes, int]:
    """The next `length` bytes, if `keep`, and how many there were."""
    parts: list[bytes] = []
    left = length
    while left and (part := lines.read(min(left, _CHUNK_BYTES))):
        left -= len(part)
        if keep:
            parts.append(part)
    return b"".join(parts), length - left


def _page(headers: dict[str, str], block: bytes, position: str, config: CorpusConfig) -> Record | Refusal:
    fields = {
        "id": headers.get("warc-record-id"),
        "origin": headers.get("warc-target-uri"),
        "date": headers.get("warc-date"),
    }
    content_type, charset, content = headers.get("content-type", "").lower(), None, block
    kind = content_type.split(";")[0].strip()
    if kind == "application/http":
        try:
            response = parse_response(block, config.max_document_bytes)
        except ValueError as error:
            return Refusal(position, str(error), block)
        if not 200 <= response.status < 300:
            return Refusal(position, "HTTP status is not 2xx", block)
        kind, charset, content = response.media_type, response.charset, response.body
    if len(content) > config.max_document_bytes:
        return Refusal(position, TOO_LONG, block)
    if kind in _HTML_TYPES:
        return page(content, charset, position, fields, config)
    if kind != "text/plain":
        return Refusal(position, "neither HTML nor plain text", block)
    try:
        text = content.decode(charset or "utf-8")
        return Record(position, config.columns.to_record({**fields, "text": text}), content)
    except (UnicodeDecodeError, LookupError):
        return Refusal(position, "invalid UTF-8" if charset is None else "invalid in its declared encoding", content)
