"""An HTTP response as stored in a web archive, with its body decoded.

Archives hold headers as servers sent them beside bodies that a crawler may already have decoded, so a declared coding
is tried, and a body that is already text is used unchanged.

Invariant: a body is complete or refused: one that is truncated in its coding is never returned as a shorter one.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

from ..zstd import open_zstd
from .streams import DAMAGE, is_damage, is_plain

_STATUS = re.compile(rb"HTTP/\d\S*[ \t]+(\d{3})(?!\d)")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_END_OF_CHUNK = re.compile(rb"\r?\n|")


@dataclass
class Response:
    """A response: status, media type in lower case, the charset that its header names (HTML5's name), and the body."""

    status: int
    media_type: str
    charset: str | None
    body: bytes


def parse_response(message: bytes, max_bytes: int) -> Response:
    """The response in `message`, its body cut to `max_bytes` + 1 bytes. The ValueError states why it is refused."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    end = _END_OF_HEAD.search(message)
    head, body = (message[: end.start()], message[end.end() :]) if end else (message, b"")
    status = _STATUS.match(head)
    if status is None:
        raise ValueError("broken HTTP message")
    headers: dict[str, list[str]] = {}
    for line in head.split(b"\n")[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    content_type = ", ".join(headers.get("content-type", []))
    charset = _CHARSET.search(content_type)
    if 200 <= int(status[1]) < 300:
        codings = ",".join([*headers.get("content-encoding", []), *headers.get("transfer-encoding", [])])
        for coding in reversed(codings.lower().split(",")):
            body = _undo(coding.strip(), body, max_bytes)
    return Response(
        int(status[1]),
        re.split("[;,]", content_type)[0].strip().lower(),
        map_encoding_to_html5(charset[1], fallback_utf8=False) if charset else None,
        body,
    )


def _undo(coding: str, body: bytes, max_bytes: int) -> bytes:
    """The decoded body, or the body unchanged if it is text although it declares a coding."""
    try:
        match coding:
            case "" | "identity":
                return body
            case "chunked":
                return _join_chunks(body)
            case "gzip" | "x-gzip":
                return _inflate(body, 31, max_bytes)
            case "deflate":
                try:
                    return _inflate(body, 15, max_bytes)
                except zlib.error:  # some servers leave out the zlib header
                    return _inflate(body, -15, max_bytes)
            case "br":
                from fastwarc.stream_io import BrotliReader

                return bytes(BrotliReader(io.BytesIO(body)).read(max_bytes + 1))
            case "zstd":
                return open_zstd(io.BytesIO(body)).read(max_bytes + 1)
    except DAMAGE as error:
        if not is_damage(error):
            raise
    if coding != "chunked" and is_plain(body):
        return body
    raise ValueError("HTTP body is cut or not in its declared coding")


def _join_chunks(body: bytes) -> bytes:
    """The chunks of a body, joined; one that does not begin with a chunk already was. ValueError if truncated."""
    parts: list[bytes] = []
    chunk = _CHUNK.match(body)
    if chunk is None:
        return body
    while chunk is not None:
        start, size = chunk.end(), int(chunk[1], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[start : start + size])
        end_of_chunk = _END_OF_CHUNK.match(body, start + size)
        chunk = _CHUNK.match(body, end_of_chunk.end()) if end_of_chunk else None
    raise ValueError("cut chunk")


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    """The first `max_bytes` + 1 bytes of all gzip members, or of one zlib or raw stream. ValueError if truncated."""
    parts: list[bytes] = []
    left = max_bytes + 1
    while left and (not parts or body[:2] == b"\x1f\x8b"):
        inflater = zlib.decompressobj(window_bits)
        parts.append(inflater.decompress(body, left))
        left -= len(parts[-1])
        if left and not inflater.eof:
            raise ValueError("cut")
        body = inflater.unused_data
    return b"".join(parts)
