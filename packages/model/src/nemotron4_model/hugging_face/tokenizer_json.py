"""tokenizer.json for transformers, derived from a SentencePiece BPE model without either library.

Invariant: transformers' AutoTokenizer gives the same ids as nemotron4_data's Tokenizer (a test checks it): neither
turns text into a control piece or a turn marker. Templates get those from `convert_tokens_to_ids`, or with
`split_special_tokens=False`. Where the SentencePiece model uses settings that the tokenizers library cannot reproduce
exactly, no tokenizer.json is written.
Source: sentencepiece_model.proto for the wire format (field numbers below); the tokenizers library's JSON format.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nemotron4_model.config import ModelConfig

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_BPE = 2
_SPACE = "\u2581"
# User-defined pieces that steer the model, by the same rule as nemotron4_data's control_pieces.py.
_MARKER = re.compile(r"\u2581?(?:<\S*[^\W\d_]\S*>|\[\S*[^\W\d_]\S*\])")


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def tokenizer_files(path: Path, config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Contents of tokenizer.json and tokenizer_config.json by file name; empty when they could not be exact.

    Exact means BPE with byte fallback, no normalisation, no prefix space and no whitespace removal, which is what
    `nemotron4 prepare` trains. ValueError when the file is not a SentencePiece model, or has more pieces than
    `config.vocab_size`.
    """
    try:
        pieces, trainer, normalizer = _parse(path.read_bytes())
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error})") from error
    if len(pieces) > config.vocab_size:
        raise ValueError(
            f"model.vocab_size ({config.vocab_size}): must be at least the {len(pieces)} pieces of {path}; the model "
            "was trained with another tokenizer"
        )
    exact = trainer.get(3, 1) == _BPE and trainer.get(35, 0) == 1
    exact = exact and not normalizer.get(2) and normalizer.get(3, 1) == 0 and normalizer.get(4, 1) == 0
    if not exact:
        return {}
    return {
        "tokenizer.json": _tokenizer_json(pieces),
        "tokenizer_config.json": _tokenizer_config(pieces, config.max_sequence_length),
    }


def _tokenizer_json(pieces: list[_Piece]) -> dict[str, Any]:
    added = [
        {
            "id": index,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.kind != _USER_DEFINED or bool(_MARKER.fullmatch(piece.text)),
        }
        for index, piece in enumerate(pieces)
        if piece.kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    unknown = next(piece.text for piece in pieces if piece.kind == _UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": space,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: index for index, piece in enumerate(pieces)},
            "merges": _merges(pieces),
        },
    }


def _merges(pieces: list[_Piece]) -> list[str] | list[list[str]]:
    """Every way to join two pieces into a third, in SentencePiece's order: by decreasing score of the third.

    Written as "left right", which every version of tokenizers reads, unless a piece contains a space or would be taken
    for the "#version" line at the start of older files: then as pairs, which versions before 0.20 cannot read.
    """
    normal = {
        piece.text: piece.score for piece in pieces if piece.kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE)
    }
    ways = [
        (-score, len(text) - cut, text[:cut], text[cut:])
        for text, score in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    pairs = [[left, right] for _, _, left, right in sorted(ways)]
    if any(" " in left + right or left.startswith("#version") for left, right in pairs):
        return pairs
    return [" ".join(pair) for pair in pairs]


def _tokenizer_config(pieces: list[_Piece], max_sequence_length: int) -> dict[str, Any]:
    def text(index: int) -> str:
        return pieces[index].text

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": text(0),
        "unk_token": text(1),
        "bos_token": text(2),
        "eos_token": text(3),
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_sequence_length,
        # The model's inputs. Without this key, transformers before 5 adds token_type_ids, which generate() refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        # "</s>" in a document is text and does not end it, and "<extra_id_1>" does not begin a turn.
        "split_special_tokens": True,
    }


def _parse(blob: bytes) -> tuple[list[_Piece], dict[int, Any], dict[int, Any]]:
    """Pieces, trainer settings and normaliser settings: fields 1, 2 and 3 of ModelProto."""
    pieces: list[_Piece] = []
    settings: dict[int, dict[int, Any]] = {2: {}, 3: {}}
    for field, value in _fields(blob):
        if field == 1:
            content = dict(_fields(value))
            score = struct.unpack("<f", content[2])[0] if 2 in content else 0.0
            pieces.append(_Piece(content[1].decode("utf-8"), score, content.get(3, 1)))
        elif field in settings:
            settings[field] = dict(_fields(value))
    if len(pieces) < 4:
        raise ValueError(f"it has {len(pieces)} pieces")
    return pieces, settings[2], settings[3]


def _fields(blob: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protocol buffers message; integers are decoded, the rest stay bytes."""
    at = 0
    while at < len(blob):
        tag, at = _varint(blob, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(blob, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(blob, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(blob):
            raise ValueError("it is truncated")
        yield tag >> 3, blob[at : at + size]
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
