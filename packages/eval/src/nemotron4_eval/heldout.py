"""The held-out documents that a measurement reads, and their bytes.

Invariant: the text that compressors see is, byte for byte, the text whose tokens the model is scored on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nemotron4_data import Tokenizer


class HeldoutCorpus(Protocol):
    """The part of `nemotron4_data.Corpus` that evaluation reads."""

    @property
    def source_names(self) -> Sequence[str]:
        """Names such as english/books; what comes before the slash is the domain."""

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer that made the tokens."""

    def heldout(self, source: str) -> Sequence[NDArray[np.integer]]:
        """Token ids of each held-out document, ending with the end-of-sequence id."""

    def heldout_bytes(self, source: str) -> bytes:
        """UTF-8 text of all held-out documents, one after the other."""


@dataclass(frozen=True, kw_only=True)
class HeldoutText:
    """Held-out documents of one source."""

    source: str
    """Name of the source, e.g. multilingual/de."""
    documents: list[NDArray[np.integer]]
    """Token ids of each document, ending with the end-of-sequence id."""
    text: bytes
    """The documents' UTF-8 text, one after the other."""

    @property
    def domain(self) -> str:
        """What comes before the slash: english, multilingual, code."""
        return self.source.split("/", 1)[0]


def read_heldout(corpus: HeldoutCorpus, max_bytes_per_source: int | None = None) -> list[HeldoutText]:
    """Held-out text of every source that has any, in the corpus's order.

    With a limit, a source's first documents up to the one that reaches it. Raises ValueError when there are none.
    """
    tokenizer = Tokenizer(corpus.tokenizer_path)
    texts = []
    for source in corpus.source_names:
        documents = list(corpus.heldout(source))
        text = corpus.heldout_bytes(source)
        if max_bytes_per_source is not None and len(text) > max_bytes_per_source:
            documents, text = _first_documents(documents, tokenizer, max_bytes_per_source)
        if documents:
            texts.append(HeldoutText(source=source, documents=documents, text=text))
    if not texts:
        raise ValueError("corpus has no held-out documents; prepare it again with more text or a larger held-out share")
    return texts


def _first_documents(
    documents: list[NDArray[np.integer]], tokenizer: Tokenizer, max_bytes: int
) -> tuple[list[NDArray[np.integer]], bytes]:
    kept, text = [], b""
    for tokens in documents:
        if len(text) >= max_bytes:
            break
        kept.append(tokens)
        text += tokenizer.decode_bytes(tokens.tolist())
    return kept, text


def document_text(tokens: NDArray[np.integer], tokenizer: Tokenizer) -> str:
    """Text of one held-out document; its end-of-sequence token has none."""
    return tokenizer.decode(tokens.tolist())
