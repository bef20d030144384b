"""The engine's step on a GPU: keys and values in a pool of pages, a block table for each sequence, static shapes.

A step's rows are single tokens (decoding, and guesses: each sees its sequence up to itself) and prompts. A step of
single tokens is replayed as a CUDA graph (graphs.py); one with prompts runs eagerly, all rows in the same matrix
products. Of a replayed step, all that changes goes to the device in one copy: ids, positions, slots of the pool, seats
and lengths.

Invariant: a row reads only the pages of its own sequence, and only tokens before and at its position; rows that fill up
a graph write to a scratch page that no sequence has. On a CPU the same class runs on `Gathered` attention, which tests
use; nothing here has run on a GPU.

Shapes: R rows, S sequences with a prompt, D hidden, V vocabulary, K key/value heads, G query heads per key/value head,
H head width, A pages of the pool (the scratch page is the last), P tokens of a page, W pages of a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemotron4_infer.engine.batch import Span
from nemotron4_infer.engine.graphs import Capture, CudaCapture, Graphs, ladder, next_size
from nemotron4_infer.engine.paged_attention import KERNEL_PAGE_TOKENS, PagedAttention, Prompts, choose_attention
from nemotron4_infer.engine.pointwise import EAGER, Pointwise
from nemotron4_infer.weights.engine_weights import BlockWeights, EngineWeights

MIN_SINGLE_ROWS = 16
"""Single tokens that graphs have room for, however few sequences may run: a few sequences with guesses."""


@dataclass(frozen=True)
class _Seat:
    """An open sequence: its row of the block tables, and its pages."""

    row: int
    pages: tuple[int, ...]


@dataclass(frozen=True)
class _Single:
    """A row that is computed as one token."""

    token: int
    position: int
    seat: _Seat


class CudaRunner:
    """`StepRunner` over pages."""

    is_paged = True

    def __init__(
        self,
        weights: EngineWeights,
        num_pages: int,
        max_sequences: int,
        *,
        page_tokens: int = KERNEL_PAGE_TOKENS,
        attention: PagedAttention | None = None,
        capture: Capture | None = None,
        pointwise: Pointwise = EAGER,
        equal_bits: bool = False,
    ) -> None:
        """Allocate the pool. `attention` and `capture` None take what suits the device.

        With `equal_bits` every product has one number of rows: single tokens are filled up to `max_sequences` rows,
        and each tile of a prompt is computed by itself, filled up to a page.
        """
        config = weights.config
        H, G = config.attention_head_dim, config.num_queries_per_key_value_head
        K = weights.blocks[0].qkv.out_features // ((G + 2) * H)  # with tensor parallelism, this rank's
        self.weights, self.pointwise, self.equal_bits = weights, pointwise, equal_bits
        self.page_tokens, self.num_pages = page_tokens, num_pages
        self.max_sequence_length, self.vocab_size = config.max_sequence_length, config.vocab_size
        on_cuda = weights.device.type == "cuda"
        if attention is None:
            heads, splits = (G * K, K, H), 1 if equal_bits else None
            attention = choose_attention(weights.device, weights.dtype, heads, page_tokens, splits)
        self.attention = attention
        self._graphs = Graphs(capture or (CudaCapture() if on_cuda else None))
        # Zeros: a masked value counts as 0 times itself, which must not be NaN.
        shape = (2, config.num_layers, num_pages + 1, page_tokens, K, H)
        self._pool = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        pages = -(-config.max_sequence_length // page_tokens)
        most = max(max_sequences, MIN_SINGLE_ROWS)
        self._sizes = [ladder(most)[-1]] if equal_bits else ladder(most)
        self._widths = [pages] if equal_bits else [1 << i for i in range((pages - 1).bit_length())] + [pages]
        self._tables = torch.full((max_sequences + 1, pages), num_pages, dtype=torch.int32, device=weights.device)
        self._scratch = _Single(0, 0, _Seat(max_sequences, (num_pages,)))
        self._seats: dict[int, _Seat] = {}
        self._free = list(range(max_sequences))
        self._inputs: dict[int, Tensor] = {}

    def open(self, sequence: int, capacity: int, pages: Sequence[int], num_cached: int) -> None:
        """See `StepRunner.open`; the pages hold the cached tokens already."""
        assert len(pages) == -(-capacity // self.page_tokens)
        assert num_cached % self.page_tokens == 0
        seat = self._seats[sequence] = _Seat(self._free.pop(), tuple(pages))
        row = torch.full(self._tables.shape[1:], self.num_pages, dtype=torch.int32)
        row[: len(pages)] = torch.tensor(seat.pages, dtype=torch.int32)
        self._tables[seat.row].copy_(row)

    def truncate(self, sequence: int, length: int) -> None:
        """Nothing to do: what lies beyond a row's position is never read."""

    def save(self, sequence: int, page_index: int, page: int) -> None:
        """Nothing to do: the page is the sequence's own."""
        assert self._seats[sequence].pages[page_index] == page

    def close(self, sequence: int) -> None:
        """Forget the sequence."""
        self._free.append(self._seats.pop(sequence).row)

    def release(self, pages: Sequence[int]) -> None:
        """Nothing to do: the pool has its memory for good."""

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> list[Tensor]:
        """See `StepRunner.run`. Logits may lie in memory that the next call overwrites."""
        logits: list[Tensor | None] = [None] * len(spans)
        singles = [i for i, span in enumerate(spans) if not span.is_prefill]
        prompts = [i for i, span in enumerate(spans) if span.is_prefill]
        if self.equal_bits:
            for i in prompts:
                logits[i] = self._tile_by_tile(spans[i])
        if prompts and not self.equal_bits:
            found = self._mixed([spans[i] for i in singles], [spans[i] for i in prompts])
            for i, one in zip([*singles, *prompts], found, strict=True):
                logits[i] = one
        elif singles:
            for i, one in zip(singles, self._only_singles([spans[i] for i in singles]), strict=True):
                logits[i] = one
        assert all(one is not None for one in logits)
        return [one for one in logits if one is not None]

    def _only_singles(self, spans: Sequence[Span]) -> list[Tensor]:
        rows = self._singles(spans)
        step, parts = self._sizes[-1], []
        for first in range(0, len(rows), step):
            part = self._replay(rows[first : first + step])
            # A graph's result is overwritten by the next.
            parts.append(part if len(rows) <= step else part.clone())
        return _last_rows(torch.cat(parts) if len(parts) > 1 else parts[0], spans)

    def _replay(self, rows: Sequence[_Single]) -> Tensor:
        """logits_RV of single tokens, by a graph of the next size and width."""
        size = next_size(self._sizes, len(rows))
        assert size is not None
        width = next_size(self._widths, max(row.position // self.page_tokens + 1 for row in rows))
        assert width is not None
        filled = [*rows, *[self._scratch] * (size - len(rows))]
        inputs_5R = self._inputs.get(size)
        if inputs_5R is None:
            inputs_5R = self._inputs[size] = torch.zeros(5, size, dtype=torch.int32, device=self.weights.device)
        inputs_5R.copy_(self._pinned([self._row(row) for row in filled]), non_blocking=True)
        logits_RV = self._graphs.run((size, width), lambda: self._forward(inputs_5R, size, width, None, None))
        return logits_RV[: len(rows)]

    def _mixed(self, singles: Sequence[Span], prompts: Sequence[Span]) -> list[Tensor]:
        """Eagerly: logits of each of the spans, single tokens first."""
        device, rows = self.weights.device, self._singles(singles)
        num_singles, width = len(rows), self._tables.shape[1]
        for span in prompts:
            seat = self._seats[span.sequence]
            rows.extend(_Single(token, span.begin + i, seat) for i, token in enumerate(span.token_ids))
        wanted: list[int] = []
        row = 0
        for span in [*singles, *prompts]:
            row += len(span.token_ids)
            wanted.extend(range(row - span.num_logits, row))
        inputs_5R = self._pinned([self._row(row) for row in rows]).to(device, non_blocking=True)
        found_WV = self._forward(
            inputs_5R, num_singles, width, self._prompts(prompts), torch.tensor(wanted, device=device)
        )
        return list(found_WV.split([span.num_logits for span in [*singles, *prompts]]))

    def _tile_by_tile(self, span: Span) -> Tensor:
        """Each tile of a prompt by itself, filled up to a page with rows that no one reads."""
        device, page, parts = self.weights.device, self.page_tokens, []
        assert span.begin % page == 0
        for first in range(0, len(span.token_ids), page):
            tokens = span.token_ids[first : first + page]
            tile = Span(span.sequence, span.begin + first, tokens, 0, True)
            seat = self._seats[span.sequence]
            rows = [_Single(token, tile.begin + i, seat) for i, token in enumerate(tokens)]
            rows += [self._scratch] * (page - len(tokens))
            inputs_5R = self._pinned([self._row(row) for row in rows]).to(device, non_blocking=True)
            logits_RV = self._forward(inputs_5R, 0, self._tables.shape[1], self._prompts([tile]), None)
            parts.append(logits_RV[: len(tokens)])
        return torch.cat(parts)[len(span.token_ids) - span.num_logits :]

    def _singles(self, spans: Sequence[Span]) -> list[_Single]:
        return [
            _Single(token, span.begin + i, self._seats[span.sequence])
            for span in spans
            for i, token in enumerate(span.token_ids)
        ]

    def _row(self, row: _Single) -> tuple[int, int, int, int, int]:
        """Id, position, slot in the pool, seat, and the tokens that a single row sees."""
        page, offset = divmod(row.position, self.page_tokens)
        slot = row.seat.pages[page] * self.page_tokens + offset
        return row.token, row.position, slot, row.seat.row, row.position + 1

    def _pinned(self, rows: list[tuple[int, int, int, int, int]]) -> Tensor:
        """inputs_5R in memory from which the copy to a GPU does not wait; torch keeps it until the copy is done."""
        inputs_5R = torch.tensor(rows, dtype=torch.int32).T.contiguous()
        return inputs_5R.pin_memory() if self.weights.device.type == "cuda" else inputs_5R

    def _prompts(self, spans: Sequence[Span]) -> Prompts:
        device = self.weights.device
        seats = torch.tensor([self._seats[span.sequence].row for span in spans], device=device)
        counts = [len(span.token_ids) for span in spans]
        bounds = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        lengths = torch.tensor([span.begin + len(span.token_ids) for span in spans], dtype=torch.int32)
        return Prompts(
            table_SW=self._tables[seats],
            bounds_E=bounds.to(device),
            length_S=lengths.to(device),
            spans=[(span.begin, count) for span, count in zip(spans, counts, strict=True)],
        )

    def _forward(
        self, inputs_5R: Tensor, num_singles: int, width: int, prompts: Prompts | None, wanted: Tensor | None
    ) -> Tensor:
        """logits_RV of the rows, or of those wanted. Rows beyond single tokens and prompts only fill up."""
        weights, pointwise = self.weights, self.pointwise
        id_R, position_R, slot_R, seat_R, length_R = inputs_5R.long().unbind()
        cos, sin = (table[position_R][:, None, None] for table in (weights.cos_PR, weights.sin_PR))
        table_RW = self._tables[seat_R[:num_singles], :width]
        attend = _RowAttention(self.attention, table_RW, length_R[:num_singles].int(), prompts)
        x_RD = weights.embedding_VD[id_R]
        norm = weights.blocks[0].attention_norm
        h_RD = pointwise.normalise(x_RD, norm.gain_D, norm.bias_D, norm.eps)
        following = [block.attention_norm for block in weights.blocks[1:]] + [weights.norm]
        for layer, (block, norm) in enumerate(zip(weights.blocks, following, strict=True)):
            y_RD = self._attention(block, layer, h_RD, cos, sin, slot_R, attend)
            after = block.mlp_norm
            x_RD, h_RD = pointwise.add_and_normalise(x_RD, y_RD, after.gain_D, after.bias_D, after.eps)
            y_RD = block.down(pointwise.squared_relu(block.up(h_RD)))
            x_RD, h_RD = pointwise.add_and_normalise(x_RD, y_RD, norm.gain_D, norm.bias_D, norm.eps)
        return weights.head(h_RD if wanted is None else h_RD[wanted])

    def _attention(
        self,
        block: BlockWeights,
        layer: int,
        h_RD: Tensor,
        cos: Tensor,
        sin: Tensor,
        slot_R: Tensor,
        attend: "_RowAttention",
    ) -> Tensor:
        k_APKH, v_APKH = self._pool[:, layer]
        K, H = k_APKH.shape[2:]
        qkv_RKGH = block.qkv(h_RD).view(len(h_RD), K, -1, H)
        k_CKH, v_CKH = k_APKH.flatten(0, 1), v_APKH.flatten(0, 1)
        q_RNH = self.pointwise.rotate_and_store(qkv_RKGH, cos, sin, slot_R, k_CKH, v_CKH)
        return block.out(attend(q_RNH, k_APKH, v_APKH).flatten(1))


@dataclass(frozen=True)
class _RowAttention:
    """Attention of single tokens, then of prompts; the rows that only fill up get zeros."""

    attention: PagedAttention
    table_RW: Tensor  # noqa: N815 (shapes in names)
    length_R: Tensor  # noqa: N815 (shapes in names)
    prompts: Prompts | None

    def __call__(self, q_RNH: Tensor, k_APKH: Tensor, v_APKH: Tensor) -> Tensor:
        first, parts = len(self.length_R), []
        if first:
            parts.append(self.attention.single(q_RNH[:first], k_APKH, v_APKH, self.table_RW, self.length_R))
        if self.prompts is not None:
            end = first + sum(count for _, count in self.prompts.spans)
            parts.append(self.attention.prompts(q_RNH[first:end], k_APKH, v_APKH, self.prompts))
            if end < len(q_RNH):
                parts.append(torch.zeros_like(q_RNH[end:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _last_rows(logits_RV: Tensor, spans: Sequence[Span]) -> list[Tensor]:
    """Of each span's rows the last num_logits."""
    parts = logits_RV.split([len(span.token_ids) for span in spans])
    return [part[len(part) - span.num_logits :] for part, span in zip(parts, spans, strict=True)]
