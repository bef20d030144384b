"""The plain StepRunner: `Transformer.forward` and a KVCache for each sequence, one span after another.

The faster runners are held to it. A prompt is computed tile by tile, so its logits have the same bits however a prompt
was divided into steps and whatever of it came from the cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nemotron4_infer.cache import KVCache
from nemotron4_infer.engine.batch import Span
from nemotron4_model import Transformer


class ReferenceRunner:
    """See `StepRunner`; each sequence has a slab, its KVCache."""

    is_paged, equal_bits = False, True

    def __init__(self, model: Transformer, cache_tokens: int, page_tokens: int = 64) -> None:
        self.model, self.page_tokens = model, page_tokens
        self.num_pages = cache_tokens // page_tokens
        self.max_sequence_length, self.vocab_size = model.config.max_sequence_length, model.config.vocab_size
        self._caches: dict[int, KVCache] = {}
        self._pages: dict[int, tuple[Tensor, Tensor]] = {}

    def open(self, sequence: int, capacity: int, pages: Sequence[int], num_cached: int) -> None:
        """See `StepRunner`."""
        weight = self.model.embedding.weight
        cache = KVCache(self.model.config, capacity=capacity, dtype=weight.dtype, device=weight.device)
        for index in range(num_cached // self.page_tokens):
            k_LBKCH, v_LBKCH = self._pages[pages[index]]
            at = slice(index * self.page_tokens, (index + 1) * self.page_tokens)
            cache.k_LBKCH[:, :, :, at], cache.v_LBKCH[:, :, :, at] = k_LBKCH, v_LBKCH
        cache.length = num_cached
        self._caches[sequence] = cache

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> list[Tensor]:
        """See `StepRunner`."""
        return [self._run(span) for span in spans]

    def _run(self, span: Span) -> Tensor:
        cache, size = self._caches[span.sequence], self.page_tokens if span.is_prefill else 1
        assert cache.length == span.begin
        parts = [span.token_ids[at : at + size] for at in range(0, len(span.token_ids), size)]
        logits_TV = torch.cat([self._forward(part, cache, last_only=span.num_logits <= 1) for part in parts])
        return logits_TV[len(logits_TV) - span.num_logits :]

    def _forward(self, token_ids: Sequence[int], cache: KVCache, *, last_only: bool) -> Tensor:
        tokens_BT = torch.tensor([list(token_ids)], device=cache.k_LBKCH.device)
        position_BT = cache.positions(len(token_ids))
        logits_BTV = self.model(tokens_BT, position_BT=position_BT, cache=cache, last_only=last_only)
        return logits_BTV[0]  # type: ignore[no-any-return]  # a module's call is Any

    def truncate(self, sequence: int, length: int) -> None:
        """See `StepRunner`."""
        self._caches[sequence].length = length

    def save(self, sequence: int, page_index: int, page: int) -> None:
        """See `StepRunner`."""
        cache, at = self._caches[sequence], slice(page_index * self.page_tokens, (page_index + 1) * self.page_tokens)
        self._pages[page] = cache.k_LBKCH[:, :, :, at].clone(), cache.v_LBKCH[:, :, :, at].clone()

    def close(self, sequence: int) -> None:
        """See `StepRunner`."""
        del self._caches[sequence]

    def release(self, pages: Sequence[int]) -> None:
        """See `StepRunner`."""
        for page in pages:
            self._pages.pop(page, None)
