"""Training the tokenizer on lines of the prepared documents: stage 2 of `nemotron4 prepare`.

Invariant: the same documents, settings and seed give the same bytes of `tokenizer.model`.

Source: Nemotron-4 15B Technical Report, arXiv 2402.16819, section 2: SentencePiece BPE on a sample of the final data
set with non-English upsampled, whitespace preserved, digits split, byte-level fallback. Ids 0-3 are those of NVIDIA's
exported models, `<extra_id_*>` the turn markers of its instruct models. The report states no other trainer settings.
"""

from __future__ import annotations

import ctypes
import random
import re
from collections.abc import Iterator
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path

import sentencepiece as spm

from .document_columns import read_chunks, read_columns
from .documents import document_path
from .prepare_job import TokenizerConfig

SPECIAL_MARKERS = ("<extra_id_0>", "<extra_id_1>")
# SentencePiece drops longer sentences entirely; lines are cut below its limit so that minified text counts too.
_MAX_LINE_CHARACTERS = 4_000
_MAX_SENTENCE_BYTES = 4 * _MAX_LINE_CHARACTERS + 1


def source_rates(num_bytes: dict[str, int], config: TokenizerConfig) -> dict[str, float]:
    """How often each source's lines are drawn on average: 0.5 is every other line, 2.0 every line twice.

    Sources outside `natural_domains` are upsampled together (their share of the corpus to the exponent), so that many
    small languages cannot crowd out English, and divide that share by size to the exponent.
    """
    total = sum(num_bytes.values())
    raised = {
        source: count**config.upsampling_exponent
        for source, count in num_bytes.items()
        if count and source.split("/")[0] not in config.natural_domains
    }
    share = sum(num_bytes[source] for source in raised) / total
    weights = {source: count / total for source, count in num_bytes.items() if count and source not in raised}
    for source, size in raised.items():
        weights[source] = share**config.upsampling_exponent * size / sum(raised.values())
    budget = min(total, config.train_bytes) / sum(weights.values())
    return {source: weight * budget / num_bytes[source] for source, weight in weights.items()}


def training_lines(documents: Path, num_bytes: dict[str, int], config: TokenizerConfig, seed: int) -> Iterator[str]:
    """The sampled lines of the training split, newlines removed, in a fixed order."""
    for source, rate in sorted(source_rates(num_bytes, config).items()):
        draw = random.Random(f"{seed}/{source}").random
        whole, part = int(rate), rate % 1
        for lines in read_chunks(document_path(documents, source, "train")):
            (texts,) = read_columns(lines, "text")
            for line in chain.from_iterable(text.split("\n") for text in texts.to_pylist()):
                copies = whole + (part > 0 and draw() < part)
                if copies == 1 and len(line) <= _MAX_LINE_CHARACTERS:
                    yield line
                    continue
                for start in range(0, len(line), _MAX_LINE_CHARACTERS):
                    yield from repeat(line[start : start + _MAX_LINE_CHARACTERS], copies)


def train_tokenizer(documents: Path, num_bytes: dict[str, int], config: TokenizerConfig, seed: int) -> bytes:
    """Train and return `tokenizer.model`. ValueError if the text does not support a vocabulary of that size."""
    model = BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=training_lines(documents, num_bytes, config, seed),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            add_dummy_prefix=False,
            split_digits=True,
            byte_fallback=True,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            user_defined_symbols=list(SPECIAL_MARKERS),
            max_sentence_length=_MAX_SENTENCE_BYTES,
            shuffle_input_sentence=False,
            # The pieces do not depend on it, but the model records it: a fixed number keeps the file identical.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_vocabulary_message(str(error), config)) from error
    _return_freed_memory()
    return model.getvalue()


def _return_freed_memory() -> None:
    """Return the memory that training freed to the system: the next stage starts workers that need it."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # only in glibc
        trim(0)


def _vocabulary_message(error: str, config: TokenizerConfig) -> str:
    """SentencePiece's error as one line that names the setting."""
    if most := re.search(r"Vocabulary size too high.*?<= (\d+)", error):
        return (
            f"tokenizer.vocab_size ({config.vocab_size}) must be at most {most[1]}, as many as this text supports: "
            f"lower it or add text"
        )
    if least := re.search(r"smaller than required_chars\D+\d+ vs (\d+)", error):
        return (
            f"tokenizer.vocab_size ({config.vocab_size}) must be at least {least[1]} to give each character a piece: "
            f"raise it or lower tokenizer.character_coverage ({config.character_coverage})"
        )
    if "sentences_.empty()" in error:
        return (
            "the training split has no line of text to train a tokenizer on: add text or lower corpus.heldout_fraction"
        )
    return f"the tokenizer cannot be trained on this text: {' '.join(error.split())}"
