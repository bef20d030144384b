"""Pieces added to a trained SentencePiece model, and whether one model is another with pieces added.

Invariant: ids and scores of the model's own pieces do not change; added ones get the ids after them, in order. They are
user-defined: text that contains one always becomes it, except markers such as `<|user|>` (control_pieces.py).

Source: sentencepiece_model.proto for the wire format, in which appended fields extend a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nemotron4_common.rules import require

from .control_pieces import USER_DEFINED, fields
from .tokenizer import Tokenizer

_PIECES, _NORMALISER = 1, 3  # fields of ModelProto
_TEXT, _SCORE, _KIND = 1, 2, 3  # fields of one piece
_NORMAL = 1


class _Piece(NamedTuple):
    text: bytes
    score: bytes
    kind: int


def add_pieces(model: Path, pieces: Sequence[str]) -> bytes:
    """The content of `model` with pieces added. ValueError if it already has one of them."""
    content = model.read_bytes()
    known = {piece.text for piece in _pieces(content)}
    for piece in pieces:
        text = piece.encode()
        rule = f"is already a piece of {model}, or given twice; leave it out"
        require(text not in known, "tokenizer.extra_pieces", piece, rule)
        known.add(text)
        message = _field(_TEXT, text) + bytes((_SCORE << 3 | 5, 0, 0, 0, 0, _KIND << 3, USER_DEFINED))
        content += _field(_PIECES, message)
    return content


def num_shared_pieces(first: Path, second: Path) -> int | None:
    """The number of pieces of `first` if `second` is the same tokenizer, or the same with pieces added; else None.

    Raises what `Tokenizer` raises.
    """
    for path in (first, second):
        Tokenizer(path)
    one, other = first.read_bytes(), second.read_bytes()
    shared = _pieces(one)
    same = _pieces(other)[: len(shared)] == shared and _normaliser(one) == _normaliser(other)
    return len(shared) if same else None


def _pieces(model: bytes) -> list[_Piece]:
    found = []
    for number, start, end in fields(model, 0, len(model)):
        if number == _PIECES:
            parts = {field: model[first:last] for field, first, last in fields(model, start, end)}
            found.append(_Piece(parts[_TEXT], parts.get(_SCORE, bytes(4)), parts.get(_KIND, bytes((_NORMAL,)))[0]))
    return found


def _normaliser(model: bytes) -> list[bytes]:
    return [model[start:end] for number, start, end in fields(model, 0, len(model)) if number == _NORMALISER]


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes in the wire format."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + content
