"""The held-out documents that a measurement reads, and their bytes.

Invariant: compressors get, byte for byte, the text whose tokens the model is scored on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemotron4_data import Corpus

RESERVED_DOMAINS = ("overall", "sources", "step", "tokens", "drawn_tokens")
"""Names that mean something else in result files."""


@dataclass(frozen=True, kw_only=True)
class HeldoutText:
    """Held-out documents of one source."""

    source: str
    """Name of the source, e.g. multilingual/de."""
    documents: list[NDArray[np.integer]]
    """Token ids of each document, ending with the end-of-sequence id."""
    texts: list[bytes]
    """UTF-8 text of each document."""

    @property
    def domain(self) -> str:
        """The part of `source` before the slash: code of code/python."""
        return domain_of(self.source)

    @property
    def text(self) -> bytes:
        """All documents, one after the other."""
        return b"".join(self.texts)


def domain_of(source: str) -> str:
    """The domain of a source: code of code/python."""
    return source.split("/", 1)[0]


def check_domains(corpus: Corpus) -> None:
    """ValueError for a domain of held-out text whose results would overwrite others in result files."""
    for source in corpus.heldout_names:
        if domain_of(source) in RESERVED_DOMAINS:
            raise ValueError(
                f"data.dir ({corpus.dir}): the domain of source {source} is a name reserved in result files"
                f" ({', '.join(RESERVED_DOMAINS)}); prepare the corpus again with another name"
            )


def read_heldout(corpus: Corpus, max_bytes_per_source: int | None = None) -> list[HeldoutText]:
    """Held-out text of every source that has any, sorted by name.

    With a limit, only a source's first documents, up to the one that reaches the limit. Raises ValueError if there is
    no held-out text or a domain has a reserved name.
    """
    check_domains(corpus)
    found = []
    for source in corpus.heldout_names:
        heldout = corpus.heldout(source)
        kept = _reaching(heldout.texts, max_bytes_per_source)
        if any(heldout.texts[:kept]):
            documents = [heldout.tokens[heldout.offsets[i] : heldout.offsets[i + 1]] for i in range(kept)]
            found.append(HeldoutText(source=source, documents=documents, texts=heldout.texts[:kept]))
    if not found:
        raise ValueError(
            f"data.dir ({corpus.dir}): has no held-out documents; prepare it again with a larger held-out share"
        )
    return found


def _reaching(texts: list[bytes], max_bytes: int | None) -> int:
    """How many of the first texts reach `max_bytes`; all, if they do not reach it or there is no limit."""
    total = 0
    for count, text in enumerate(texts, start=1):
        total += len(text)
        if max_bytes is not None and total >= max_bytes:
            return count
    return len(texts)
