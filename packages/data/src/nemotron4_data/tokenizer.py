"""The SentencePiece tokenizer as the rest of the project sees it: exact text to ids, ids to exact text, and streaming.

Invariants: `decode(encode(text)) == text` for every string that UTF-8 can encode and that has no NUL; and no text
encodes to a control piece or a turn marker: only `id_of` gives their ids. SentencePiece writes a space as U+2581 inside
pieces, so a literal U+2581 would be decoded as a space; here it is encoded in byte pieces instead.

Source: Nemotron-4 15B Technical Report, arXiv 2402.16819, section 2 (BPE, whitespace kept, digits split, byte
fallback).
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
from numpy.typing import NDArray

from .control_pieces import with_markers_as_control
from .spelling import Spelling
from .text_cuts import PART_CHARACTERS, TextCuts

_SPACE_MARK = "\u2581"
_SPACE_MARK_BYTES = _SPACE_MARK.encode()
_PARTS_AT_A_TIME = 1 << 10
_TOKENS_AT_A_TIME = 1 << 16
_SHOWN_CHARACTERS = 5


class Tokenizer:
    """A trained `tokenizer.model`."""

    def __init__(self, path: str | Path) -> None:
        """Raise OSError if the file cannot be read, ValueError if it is not a SentencePiece model with an EOS."""
        self.path = Path(path)
        model = self.path.read_bytes()
        self.sha256 = hashlib.sha256(model).hexdigest()
        try:
            model, self._markers = with_markers_as_control(model)
            self._processor = spm.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, IndexError, KeyError) as error:
            raise ValueError(f"{path}: not a SentencePiece model: {_last_words(error)}") from error
        self._unknown: dict[str, bool] = {}  # by character, for texts that cannot be restored exactly
        if self._processor.eos_id() < 0:
            raise ValueError(f"{path}: the tokenizer has no EOS piece, which ends each document: train it with one")

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self._processor.vocab_size())

    @property
    def pad_id(self) -> int:
        """Id of padding, -1 if there is none."""
        return int(self._processor.pad_id())

    @property
    def unk_id(self) -> int:
        """Id of the unknown piece; with byte fallback nothing encodes to it."""
        return int(self._processor.unk_id())

    @property
    def bos_id(self) -> int:
        """Id of the beginning of a text, -1 if there is none."""
        return int(self._processor.bos_id())

    @property
    def eos_id(self) -> int:
        """Id of the end of a document."""
        return int(self._processor.eos_id())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS and EOS; `</s>` or `<extra_id_0>` written in it is encoded as any other text."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def is_control(self, token: int) -> bool:
        """Whether an id is a control piece or a turn marker."""
        return bool(self._processor.is_control(token))

    @cached_property
    def prefix(self) -> str:
        """The space that a foreign tokenizer may prepend to every text; empty if it prepends none."""
        return " " if self.decode(self.encode("x")).startswith(" ") else ""

    def encode_batch(self, texts: Sequence[str] | Sequence[bytes]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids of some texts, concatenated, as `encode` gives them, and how many each text has.

        UTF-8 takes less time than strings. Besides the ids it needs memory for a few million characters, or for the
        longest stretch of text that cannot be cut (see `text_cuts`).
        """
        parts: list[bytes] = []
        marks: set[int] = set()  # which parts are U+2581
        ends = []  # of the texts, in parts
        for text in texts:
            content = text.encode() if isinstance(text, str) else text
            if len(content) <= PART_CHARACTERS and _SPACE_MARK_BYTES not in content:
                parts.append(content)
            else:
                for number, plain in enumerate(content.decode().split(_SPACE_MARK)):
                    if number:
                        marks.add(len(parts))
                        parts.append(_SPACE_MARK_BYTES)
                    parts += [part.encode() for part in self._cuts.parts(plain)]
            ends.append(len(parts))
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.int32
        ids, sizes = [np.zeros(0, dtype)], [np.zeros(1, np.int64)]
        for start in range(0, len(parts), _PARTS_AT_A_TIME):
            some = parts[start : start + _PARTS_AT_A_TIME]
            encoded: list[NDArray[np.int32]] = self._processor.encode(some, num_threads=1, return_type="numpy")
            for mark in marks.intersection(range(start, start + len(encoded))):
                encoded[mark - start] = self._space_mark_ids
            sizes.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            ids.append(np.concatenate(encoded, dtype=dtype, casting="unsafe"))
        tokens_before = np.cumsum(np.concatenate(sizes))
        return np.concatenate(ids), np.diff(tokens_before[[0, *ends]])

    def spells_control(self, text: bytes) -> bool:
        """Whether `text`, in UTF-8, contains a control piece or turn marker, spelled out."""
        return self._control_text.search(text) is not None

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; pad, BOS and EOS have none, turn markers do; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`, exact even if they end inside a character."""
        return b"".join([self._bytes_of[token] for token in ids])

    def decode_array(self, ids: NDArray[Any]) -> bytes:
        """As `decode_bytes`, several times as fast."""
        windows = range(0, len(ids), _TOKENS_AT_A_TIME)
        return b"".join([b"".join(self._byte_array[ids[start : start + _TOKENS_AT_A_TIME]]) for start in windows])

    def why_not_exact(self, text: str) -> tuple[str, str]:
        """Why a text cannot be restored exactly from its tokens: the cause, and an example of what changes."""
        ids = self.encode(text)
        found = self.decode(ids)
        words, others = text.split(), found.split()
        if self.unk_id in ids:
            lost = [character for character in dict.fromkeys(text) if self._is_unknown(character)]
            return "characters without a piece", " ".join(map(repr, lost[:_SHOWN_CHARACTERS]))
        if words == others:
            at = next(at for at, pair in enumerate(zip_longest(text, found)) if pair[0] != pair[1])
            return (
                "white space",
                f"{text[at : at + _SHOWN_CHARACTERS]!r} becomes {found[at : at + _SHOWN_CHARACTERS]!r}",
            )
        word, other = next(pair for pair in zip_longest(words, others, fillvalue="") if pair[0] != pair[1])
        return "normalisation", f"{word[:40]!r} becomes {other[:40]!r}"

    @cached_property
    def spelling(self) -> Spelling:
        """Compares ids with the text that they stand for."""
        return Spelling(self._bytes_of)

    @cached_property
    def num_bytes(self) -> NDArray[np.int64]:
        """By id: how many bytes of text it stands for."""
        return np.array([len(piece) for piece in self._bytes_of], dtype=np.int64)

    def piece(self, token: int) -> str:
        """The piece of one id as SentencePiece spells it. ValueError outside the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return str(self._processor.id_to_piece(token))

    def id_of(self, piece: str) -> int:
        """The id of a piece such as `<extra_id_0>`. ValueError when the vocabulary has no such piece."""
        token = int(self._processor.piece_to_id(piece))
        if self.piece(token) != piece:
            raise ValueError(f"{self.path}: the vocabulary has no piece {piece!r}")
        return token

    def _is_unknown(self, character: str) -> bool:
        if character not in self._unknown:
            self._unknown[character] = self.unk_id in self.encode(character)
        return self._unknown[character]

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        processor = self._processor
        table = []
        for token in range(self.vocab_size):
            if processor.is_control(token):
                table.append(self._markers.get(token, "").replace(_SPACE_MARK, " ").encode())
            elif processor.is_byte(token):
                table.append(bytes([int(processor.id_to_piece(token)[1:-1], 16)]))
            elif processor.is_unknown(token):
                table.append("\N{REPLACEMENT CHARACTER}".encode())
            else:
                table.append(processor.id_to_piece(token).replace(_SPACE_MARK, " ").encode())
        return table

    @cached_property
    def _byte_array(self) -> NDArray[Any]:
        array = np.empty(len(self._bytes_of), dtype=object)
        array[:] = self._bytes_of
        return array

    @cached_property
    def _cuts(self) -> TextCuts:
        return TextCuts(self._processor)

    @cached_property
    def _control_text(self) -> re.Pattern[bytes]:
        processor = self._processor
        control = [token for token in range(self.vocab_size) if processor.is_control(token)]
        texts = [processor.id_to_piece(token).replace(_SPACE_MARK, " ").encode() for token in control]
        return re.compile(b"|".join(map(re.escape, texts)))

    @cached_property
    def _space_mark_ids(self) -> NDArray[np.int32]:
        ids = [int(self._processor.piece_to_id(f"<0x{byte:02X}>")) for byte in _SPACE_MARK_BYTES]
        # A foreign tokenizer without byte pieces has nothing better than its unknown piece.
        return np.array(ids if all(map(self._processor.is_byte, ids)) else [self.unk_id], np.int32)


class StreamDecoder:
    """Text from ids as they arrive: `push` returns only complete characters, never half of one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Add one id; return the text it completes, which may be empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What is left at the end: U+FFFD if the ids ended inside a character."""
        return self._decoder.decode(b"", final=True)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Non-empty pieces of the text of `ids`; joined they equal `Tokenizer.decode(ids)`."""
        for token in ids:
            if text := self.push(token):
                yield text
        if text := self.finish():
            yield text


def _last_words(error: Exception) -> str:
    if not isinstance(error, RuntimeError):
        return "the file is damaged"
    # SentencePiece puts its own source file and the failed check before the reason.
    return str(error).rsplit("] ", 1)[-1].strip() or "the file is damaged"
