"""SentencePiece models as `nemotron4 prepare` trains them, of invented lines, for tests without a corpus."""

from __future__ import annotations

import random
from collections.abc import Sequence
from io import BytesIO

import sentencepiece as spm

WORDS = ("the", "of", "there", "theme", "def", "return", "naïve", "été", "día", "мир", "日本語", "x1", "if:", "--")


def train_tiny_tokenizer(words: Sequence[str] = WORDS, num_invented: int = 300, **changes: object) -> bytes:
    """A model of lines of these words and invented ones; `changes` replace what the trainer is told."""
    draw = random.Random(0)
    chosen = [*words, *("".join(draw.choices("abcdeinorst", k=draw.randint(2, 8))) for _ in range(num_invented))]
    indents = [0, 0, 2, 4, 8]
    lines = [" " * draw.choice(indents) + " ".join(draw.choices(chosen, k=12)) + "\t42" for _ in range(2_000)]
    model = BytesIO()
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 900,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "add_dummy_prefix": False,
        "split_digits": True,
        "byte_fallback": True,
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": 2,
        "eos_id": 3,
        "user_defined_symbols": ["<extra_id_0>", "<extra_id_1>"],
        "minloglevel": 2,
    }
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(settings | changes))
    return model.getvalue()
