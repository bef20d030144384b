"""Training loss by source and by domain since the last logged line, and how often each source has been read.

domains.csv and sources.csv hold one row per domain and per source for every logging interval. Losses are means over the
tokens of the steps since the row before (after a restart: since the restart); bits per byte are nats / ln 2 x tokens
/ bytes of that source's training text, so that domains and tokenizers can be compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from nemotron4_data import Corpus, TokenStream
from nemotron4_eval.heldout.text import domain_of

DOMAIN_COLUMNS = ("step", "tokens", "domain", "loss", "bits_per_byte", "loss_tokens")
SOURCE_COLUMNS = ("step", "tokens", "source", "loss", "bits_per_byte", "loss_tokens", "drawn_tokens", "epochs")


class SourceMetrics:
    """Accumulates the losses of steps until `take`."""

    def __init__(self, corpus: Corpus, stream: TokenStream) -> None:
        self._stream = stream
        sizes = {name: corpus.sizes(name, "train") for name in stream.source_names}
        self._bytes_per_token = {name: size["bytes"] / size["tokens"] for name, size in sizes.items()}
        self._nll: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)

    @property
    def is_empty(self) -> bool:
        """Nothing was added since the last `take`."""
        return not self._tokens

    def add(self, sources: Mapping[str, tuple[float, int]]) -> None:
        """Add one step: by source, the summed negative log-likelihood in nats and the tokens it is summed over.

        A source whose loss is not finite is left out: one such step would hide all others.
        """
        for name, (nll, tokens) in sources.items():
            if math.isfinite(nll):
                self._nll[name] += nll
                self._tokens[name] += tokens

    def take(self, next_sample: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return rows of domains and of sources up to sample `next_sample`, and reset the sums."""
        names = self._stream.source_names
        drawn, epochs = self._stream.positions(next_sample), self._stream.epochs(next_sample)
        domains = [
            {"domain": domain} | self._means(name for name in names if domain_of(name) == domain)
            for domain in dict.fromkeys(map(domain_of, names))
        ]
        sources = [
            {"source": name} | self._means([name]) | {"drawn_tokens": drawn[name], "epochs": epochs[name]}
            for name in names
        ]
        self._nll.clear()
        self._tokens.clear()
        return domains, sources

    def _means(self, names: Iterable[str]) -> dict[str, Any]:
        """Means over the sources that were drawn; None if there is nothing to divide by."""
        drawn = [name for name in names if self._tokens.get(name)]
        nll, tokens = sum(self._nll[name] for name in drawn), sum(self._tokens[name] for name in drawn)
        num_bytes = sum(self._tokens[name] * self._bytes_per_token[name] for name in drawn)
        return {
            "loss": nll / tokens if tokens else None,
            "bits_per_byte": nll / math.log(2) / num_bytes if num_bytes else None,
            "loss_tokens": tokens,
        }
