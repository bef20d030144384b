"""Web archives (ISO 28500): the pages of responses, resources and conversions, read by FastWARC.

Invariant: a record whose bytes stop before its declared length is damage, not a shorter page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..prepare_job import CorpusConfig
from .records import Record, Refusal
from .streams import Damaged, Unpacked
from .text import TOO_LONG, page

_HTML_TYPES = ("text/html", "application/xhtml+xml")


def read_warc(stream: Unpacked, name: str, config: CorpusConfig) -> Iterator[Record | Refusal]:
    """One record a page. Requests, metadata and revisits hold none."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
    records = ArchiveIterator(
        stream, record_types=WarcRecordType.any_type, parse_http=False, fsspec_args=False, stream_detect=False
    )
    for number, record in enumerate(_without_panic(records), start=1):
        position = f"record {number}"
        if "Content-Length" not in record.headers:
            raise Damaged(f"the header of {position} is cut or has no Content-Length")
        if record.record_type not in kinds:
            continue
        if record.content_length > config.max_document_bytes:
            yield Refusal(position, TOO_LONG)
            continue
        block = record.reader.read(record.content_length) if record.content_length else b""
        if len(block) < record.content_length:
            stream.check()
            raise Damaged(f"{position} ends after {len(block)} of {record.content_length} bytes")
        yield _page(record, block, position, config)
    stream.check()


def _without_panic(records: Iterator[Any]) -> Iterator[Any]:
    """The records; FastWARC is written in Rust, whose panics are not even an `Exception`."""
    try:
        yield from records
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Damaged(f"FastWARC cannot read on: {error}") from None


def _page(record: Any, block: bytes, position: str, config: CorpusConfig) -> Record | Refusal:
    headers = record.headers
    fields = {
        "id": headers.get("WARC-Record-ID"),
        "origin": headers.get("WARC-Target-URI"),
        "date": headers.get("WARC-Date"),
    }
    charset, content_type, content = None, headers.get("Content-Type", ""), block
    if record.is_http:
        try:
            record.set_bytes_content(block)
            record.parse_http(auto_decode="all")
            if not 200 <= int(record.http_headers.status_code or 0) < 300:
                return Refusal(position, "HTTP status is not 2xx", block)
            content = record.reader.read(config.max_document_bytes + 1)
        except (OSError, ValueError):
            return Refusal(position, "broken HTTP message", block)
        charset, content_type = record.http_charset, record.http_content_type or ""
    if len(content) > config.max_document_bytes:
        return Refusal(position, TOO_LONG, block)
    kind = content_type.split(";")[0].strip().lower()
    if kind in _HTML_TYPES:
        return page(content, charset, position, fields, config)
    if kind != "text/plain":
        return Refusal(position, "neither HTML nor plain text", block)
    try:
        return Record(position, {config.text_column: content.decode(charset or "utf-8"), **fields}, content)
    except (UnicodeDecodeError, LookupError):
        return Refusal(position, "invalid UTF-8" if charset is None else "invalid in its declared encoding", content)
