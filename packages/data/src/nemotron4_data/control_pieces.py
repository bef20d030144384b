"""Makes user-defined pieces that steer a model, such as `<extra_id_0>` or `[INST]`, control pieces for the encoder.

SentencePiece matches user-defined pieces wherever their text occurs, but never control pieces. Invariant: with the
model that `with_markers_as_control` returns, no text encodes to a control piece; ids and other pieces are unchanged.

A marker is a user-defined piece in angle or square brackets that has a letter and no space, optionally after U+2581.
All other user-defined pieces (runs of spaces, line ends, digits, words) remain text.

Source: sentencepiece_model.proto for the wire format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

USER_DEFINED, _CONTROL = 4, 3
_USER_DEFINED_FIELD = bytes((3 << 3, USER_DEFINED))
# nemotron4_model's tokenizer_json.py has the same rule: neither package imports the other.
_MARKER = re.compile(r"\u2581?(?:<\S*[^\W\d_]\S*>|\[\S*[^\W\d_]\S*\])")


def with_markers_as_control(model: bytes) -> tuple[bytes, dict[int, str]]:
    """The model with the type of its markers changed, and the text of each by id. IndexError if it is damaged."""
    changed, markers = bytearray(model), {}
    token = -1
    for number, start, end in fields(model, 0, len(model)):
        token += number == 1
        if number != 1 or _USER_DEFINED_FIELD not in model[start:end]:
            continue
        piece = {field: (first, last) for field, first, last in fields(model, start, end)}
        text = model[slice(*piece[1])].decode("utf-8", errors="replace")
        kind = piece.get(3, (start, start))[0]
        if model[kind] == USER_DEFINED and _MARKER.fullmatch(text):
            changed[kind] = _CONTROL
            markers[token] = text
    return bytes(changed), markers


def fields(blob: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte, one past the last byte) of the content of each field of a protocol-buffers message."""
    while at < end:
        tag, at = _varint(blob, at)
        size = {0: 0, 1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 == 2:
            size, at = _varint(blob, at)
        elif tag & 7 == 0:
            size = _varint(blob, at)[1] - at
        yield tag >> 3, at, at + size
        at += size


def _varint(blob: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = blob[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
