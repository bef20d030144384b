"""The model and the memory of its keys and values on a CPU: a `StepRunner` (batch.py).

Invariant: the logits of a sequence have the same bits alone, in any batch, however its prompt's tiles were spread over
steps, and with any of its tiles taken from the pool; `equal_bits` says whether this holds for the linear layers of this
model on this machine. Threads must not change after the runner was made.

Shapes: N rows, T tokens, V vocabulary, D hidden; L layers, K key/value heads, M tokens of a page, H head width.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nemotron4_infer.engine.attention import Attention, Part, Slab, TileMask
from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.equal_bits import TILE_ROWS, for_tiles, with_equal_bits
from nemotron4_infer.engine.forward import forward
from nemotron4_infer.weights.engine_weights import EngineWeights

PAGE_TOKENS = 64

_log = logging.getLogger(__name__)


class CpuRunner:
    """Computes spans of sequences whose keys and values are in slabs; pages keep those of prompts."""

    is_paged = False

    def __init__(
        self, weights: EngineWeights, num_pages: int, *, page_tokens: int = PAGE_TOKENS, step_tokens: int = 128
    ) -> None:
        """Find what gives equal bits up to `step_tokens` rows. Slabs and pages take memory as they are written."""
        config = weights.config
        self.num_pages, self.page_tokens = num_pages, page_tokens
        self.max_sequence_length, self.vocab_size = config.max_sequence_length, config.vocab_size
        self._pages_LK2MH: dict[int, Tensor] = {}
        self._slabs: dict[int, Slab] = {}
        self._mask = TileMask(config, page_tokens, weights.dtype)
        self.weights, self.row_multiple, self.equal_bits = with_equal_bits(weights, step_tokens)
        """Rows are padded to a multiple of row_multiple; equal_bits: rows then do not depend on their number."""
        self.least_rows = max(each.least_rows for each in self.weights.linears)
        """Fewer rows are padded to this many, which takes less time."""
        self.tile_weights = for_tiles(self.weights, step_tokens) if self.equal_bits else None
        """For tiles of prompts, where it is faster to multiply them apart."""
        if not self.equal_bits:
            _log.warning(
                "rounding, and so now and then a text, depends on what else runs: linear layers of this model "
                "do not give equal bits on this processor with %d threads",
                torch.get_num_threads(),
            )

    def open(self, sequence: int, capacity: int, pages: Sequence[int], num_cached: int) -> None:
        """Make room for a sequence of at most `capacity` tokens; the first num_cached are copied from pages."""
        assert sequence not in self._slabs, f"sequence {sequence} is open"
        assert num_cached % self.page_tokens == 0
        assert num_cached <= capacity
        slab = Slab(self.weights.config, capacity, self.weights.dtype)
        for index in range(num_cached // self.page_tokens):
            self._tokens_of(slab, index).copy_(self._pages_LK2MH[pages[index]])
        self._slabs[sequence] = slab

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> list[Tensor]:
        """Compute the spans; logits_TV of each, T = num_logits, as inference tensors."""
        parts = [part for span in spans for part in self._parts(span)]
        # A short rest of a prompt costs less with the single tokens than padded to a tile.
        least = max(2, self.page_tokens // 2)
        tiles = [part for part in parts if self.tile_weights and part.num_tokens >= least]
        x = self._forward(self.tile_weights, TILE_ROWS, tiles) if self.tile_weights and tiles else {}
        # Tiles first: the rest of a prompt attends to them.
        rest = [part for part in parts if part not in x]
        x |= self._forward(self.weights, self.row_multiple, rest) if rest else {}
        return self._logits(torch.cat([x[part] for part in parts]), spans)

    def _forward(self, weights: EngineWeights, row_multiple: int, parts: Sequence[Part]) -> dict[Part, Tensor]:
        """x_TD of each part."""
        ids = [token for part in parts for token in part.token_ids]
        positions = [part.begin + i for part in parts for i in range(part.num_tokens)]
        num_padding = self._padding(len(ids), row_multiple)
        attention = Attention(parts, num_padding, weights.config, weights.dtype)
        padding = [0] * num_padding
        x_ND = forward(weights, torch.tensor(ids + padding), torch.tensor(positions + padding), attention)
        return dict(zip(parts, x_ND.split([*attention.lengths, num_padding]), strict=False))

    def _padding(self, num_rows: int, multiple: int) -> int:
        """How many rows to add."""
        wanted = max(num_rows, self.least_rows)
        return wanted + -wanted % multiple - num_rows

    def truncate(self, sequence: int, length: int) -> None:
        """Nothing to do: the next tokens overwrite what lies beyond."""

    def save(self, sequence: int, page_index: int, page: int) -> None:
        """Copy the sequence's tokens page_index * page_tokens.., which have been computed, to a page."""
        self._pages_LK2MH[page] = self._tokens_of(self._slabs[sequence], page_index).clone()

    def close(self, sequence: int) -> None:
        """Free the sequence's slab."""
        del self._slabs[sequence]

    def release(self, pages: Sequence[int]) -> None:
        """Free the pages that were saved."""
        for page in pages:
            self._pages_LK2MH.pop(page, None)

    def _tokens_of(self, slab: Slab, page_index: int) -> Tensor:
        return slab.tokens(page_index * self.page_tokens, (page_index + 1) * self.page_tokens)

    def _parts(self, span: Span) -> Iterator[Part]:
        """What is attended in one call: whole tiles of a prompt, else single tokens."""
        slab, end = self._slabs[span.sequence], span.begin + len(span.token_ids)
        assert end <= slab.capacity
        assert not span.is_prefill or span.begin % self.page_tokens == 0
        size = self.page_tokens if span.is_prefill else 1
        for begin in range(span.begin, end, size):
            token_ids = span.token_ids[begin - span.begin : begin - span.begin + size]
            yield Part(slab, begin, token_ids, self._mask)

    def _logits(self, x_ND: Tensor, spans: Sequence[Span]) -> list[Tensor]:
        wanted: list[int] = []
        end = 0
        for span in spans:
            end += len(span.token_ids)
            wanted += range(end - span.num_logits, end)
        counts = [span.num_logits for span in spans]
        if not wanted:
            return [x_ND.new_empty(0, self.vocab_size) for _ in counts]
        rows = wanted + [0] * self._padding(len(wanted), self.row_multiple)
        logits_NV = self.weights.head(x_ND.index_select(0, torch.tensor(rows)))
        return list(logits_NV[: len(wanted)].split(counts))
