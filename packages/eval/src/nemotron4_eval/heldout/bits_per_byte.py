"""Bits per byte of held-out text: the compression the model would achieve, comparable across tokenizers.

Invariant: every token of every document counts once, end-of-sequence included, whatever the window, stride or batch
size; the sum, in nats, is divided by ln 2 and by the documents' UTF-8 bytes.
Source: bits per byte as in The Pile (arXiv 2101.00027 section 3.1); sliding windows as in arXiv 2012.15832 section 2.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nemotron4_common.rules import require
from nemotron4_data import Corpus
from nemotron4_eval.heldout.text import HeldoutText, domain_of, read_heldout
from nemotron4_infer.likelihood import Progress, document_nll
from nemotron4_model import Transformer


@dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    """One measurement, per source and overall."""

    nll_nats: dict[str, float]
    """Summed negative log-likelihood of each source."""
    num_bytes: dict[str, int]
    """UTF-8 bytes of each source."""
    num_tokens: int
    """Scored tokens."""

    @property
    def overall(self) -> float:
        """Bits per byte of all held-out text."""
        return self._of(self.nll_nats)

    @property
    def sources(self) -> dict[str, float]:
        """Bits per byte of each source."""
        return {source: self._of([source]) for source in self.nll_nats}

    @property
    def domains(self) -> dict[str, float]:
        """Bits per byte of each domain."""
        domains = dict.fromkeys(map(domain_of, self.nll_nats))
        return {domain: self._of(s for s in self.nll_nats if domain_of(s) == domain) for domain in domains}

    def _of(self, sources: Iterable[str]) -> float:
        sources = list(sources)
        nats = math.fsum(self.nll_nats[source] for source in sources)
        return nats / math.log(2) / sum(self.num_bytes[source] for source in sources)


def evaluate_bits_per_byte(
    model: Transformer,
    corpus: Corpus,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_bytes_per_source: int | None = None,
    device: torch.device | str = "cpu",
    length_multiple: int = 1,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> BitsPerByte:
    """Score a corpus's held-out text; see `score_heldout`. A trainer's validation needs only this call."""
    texts = read_heldout(corpus, max_bytes_per_source)
    return score_heldout(
        model,
        texts,
        corpus.tokenizer.eos_id,
        window=window,
        stride=stride,
        device=device,
        length_multiple=length_multiple,
        part=part,
        progress=progress,
    )


def score_heldout(
    model: Transformer,
    texts: list[HeldoutText],
    eos_id: int,
    *,
    window: int | None = None,
    stride: int | None = None,
    device: torch.device | str = "cpu",
    length_multiple: int = 1,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> BitsPerByte:
    """Negative log-likelihood of every held-out token; context never crosses documents.

    `window` (tokens; default: the model's sequence length) and `stride` (default: half a window) trade context for
    time. Rows are padded to a multiple of `length_multiple`, so that sequence parallelism can split them evenly.
    With `part` (i, n), of n ranks that share the work, nll_nats is rank i's addend; all else is of the whole text.
    Prints nothing and leaves the model in its train or eval mode.
    """
    longest = model.config.max_sequence_length
    window = longest if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    rule = f"must be at most the model's context of {longest} tokens"
    require(window <= longest, "suite.window_tokens", window, rule)
    require(1 <= stride <= window, "suite.stride_tokens", stride, f"must be in 1..{window}, the window")
    documents = [tokens for text in texts for tokens in text.documents]
    nll_nats = document_nll(
        model,
        documents,
        eos_id,
        window=window,
        stride=stride,
        device=device,
        length_multiple=length_multiple,
        part=part,
        progress=progress,
    )
    source_of = [text.source for text in texts for _ in text.documents]
    by_source = {text.source: 0.0 for text in texts}
    for source, nats in zip(source_of, nll_nats, strict=True):
        by_source[source] += float(nats)
    return BitsPerByte(
        nll_nats=by_source,
        num_bytes={text.source: len(text.text) for text in texts},
        num_tokens=sum(len(tokens) for tokens in documents),
    )
