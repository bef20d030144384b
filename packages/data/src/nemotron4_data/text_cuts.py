"""Where a long text can be cut so that the ids of its parts, concatenated, are the ids of the whole.

SentencePiece's BPE merges two neighbours only if the vocabulary has the result. So between two characters that are
adjacent in no piece nothing is ever merged, and neither side influences the other. This assumes that characters are
normalised one at a time and none is added or removed (no character map, no dummy prefix, white space kept); that
unknown characters become bytes (runs of unknown pieces would be merged); and that no piece is marked unused (splitting
those again depends on what was merged elsewhere). With other settings no text is cut, nor is one without such a place.

Cutting also saves time and memory: BPE's working set for a text is several times its size, too large for caches.

Source: SentencePiece's bpe_model.cc and normalizer.cc; sentencepiece_model.proto for the field numbers.
"""

from __future__ import annotations

from itertools import pairwise

import sentencepiece as spm

from .control_pieces import fields

PART_CHARACTERS = 4_000
_SPACE_MARK = "\u2581"
_BPE = 2
_TRAINER, _MODEL_TYPE = 2, 3
_NORMALIZER, _CHARACTER_MAP, _DUMMY_PREFIX, _STRIPPED, _ESCAPED = 3, 2, 3, 4, 5


class TextCuts:
    """Cuts texts for one model."""

    def __init__(self, processor: spm.SentencePieceProcessor) -> None:
        self._inseparable: set[str] | None = None
        """Pairs of characters that are adjacent in some piece; None if no text may be cut."""
        if _works_character_by_character(processor.serialized_model_proto()) and _spells_unknown_in_bytes(processor):
            self._inseparable = set()
            for token in range(processor.vocab_size()):
                if not (processor.is_control(token) or processor.is_byte(token) or processor.is_unknown(token)):
                    piece = processor.id_to_piece(token).replace(_SPACE_MARK, " ")
                    self._inseparable.update(map("".join, pairwise(piece)))

    def parts(self, text: str) -> list[str]:
        """`text`, which has no U+2581, in parts of about 4,000 characters, cut only where that changes no id."""
        if self._inseparable is None:
            return [text]
        parts = []
        start = 0
        while len(text) - start > PART_CHARACTERS:
            places = range(start + PART_CHARACTERS, len(text))
            end = next((i for i in places if text[i - 1 : i + 1] not in self._inseparable), len(text))
            parts.append(text[start:end])
            start = end
        return [*parts, text[start:]] if start < len(text) else parts


def _works_character_by_character(model: bytes) -> bool:
    settings: dict[int, dict[int, bytes]] = {_TRAINER: {}, _NORMALIZER: {}}
    for number, start, end in fields(model, 0, len(model)):
        if number in settings:
            settings[number] = {field: model[first:last] for field, first, last in fields(model, start, end)}
    trainer, normalizer = settings[_TRAINER], settings[_NORMALIZER]
    return (
        trainer.get(_MODEL_TYPE) == bytes([_BPE])
        and not normalizer.get(_CHARACTER_MAP)
        # An absent field has its default, which is true.
        and normalizer.get(_DUMMY_PREFIX) == normalizer.get(_STRIPPED) == b"\0"
        and normalizer.get(_ESCAPED, b"\1") == b"\1"
    )


def _spells_unknown_in_bytes(processor: spm.SentencePieceProcessor) -> bool:
    tokens = range(processor.vocab_size())
    return sum(map(processor.is_byte, tokens)) == 256 and not any(map(processor.is_unused, tokens))
