"""Attention on a CPU: each sequence has its keys and values in one piece, and is attended at its own width.

Gathering pages at each step would cost several times the attention. So a sequence keeps a slab while it runs, which
pages of the pool are copied into when it starts and out of when a tile of its prompt is done.

Invariant: what is attended together depends on the sequence's own tokens alone: a tile of its prompt, or one token.

Shapes: L layers, K key/value heads, G query heads per key/value head, H head width, C capacity of a slab, T tokens
attended together, M most of them, Q = T G queries in the order (token, head), S keys, P positions, E = K G H.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nemotron4_model import ModelConfig


class Slab:
    """Keys and values of one sequence of at most `capacity` tokens; memory that is not written is not touched."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype) -> None:
        shape = (config.num_layers, config.num_key_value_heads, 2, capacity, config.attention_head_dim)
        self.kv_LK2CH = torch.empty(shape, dtype=dtype)
        self.capacity = capacity

    def tokens(self, begin: int, end: int) -> Tensor:
        """kv_LK2TH of the tokens begin..end-1, a view."""
        return self.kv_LK2CH[:, :, :, begin:end]


class Attention:
    """One step's attention: consecutive rows are the tokens of each `Part` in turn, then rows of padding."""

    def __init__(self, parts: Sequence["Part"], num_padding: int, config: ModelConfig, dtype: torch.dtype) -> None:
        self.parts, self.group = parts, config.num_queries_per_key_value_head
        self.lengths = [part.num_tokens for part in parts]
        self.row_lengths = [*self.lengths, num_padding] if num_padding else self.lengths
        shape = (num_padding, config.num_key_value_heads, self.group, config.attention_head_dim)
        self.padding = [torch.zeros(shape, dtype=dtype)] if num_padding else []

    def __call__(self, layer: int, qkv_NKGH: Tensor) -> Tensor:
        """Store one layer's keys and values, and attend: y_NE."""
        q_NKGH, kv_NK2H = qkv_NKGH.split_with_sizes((self.group, 2), 2)
        q, kv = q_NKGH.split_with_sizes(self.row_lengths), kv_NK2H.split_with_sizes(self.row_lengths)
        y = [part(layer, q_TKGH, kv_TK2H) for part, q_TKGH, kv_TK2H in zip(self.parts, q, kv, strict=False)]
        return torch.cat(y + self.padding).flatten(1)


class Part:
    """Tokens of a sequence from position `begin` on, which are attended in one call; a single one needs no `mask`."""

    def __init__(self, slab: Slab, begin: int, token_ids: Sequence[int], mask: "TileMask | None" = None) -> None:
        self.begin, self.token_ids, self.num_tokens = begin, token_ids, len(token_ids)
        end = begin + self.num_tokens
        # Views of all layers at once: a view made in Python costs more than copying a token.
        self.new_LTK2H = slab.tokens(begin, end).permute(0, 3, 1, 2, 4).unbind()
        k_L1KSH, v_L1KSH = slab.tokens(0, end)[:, None].unbind(3)
        self.k_L1KSH, self.v_L1KSH = k_L1KSH.unbind(), v_L1KSH.unbind()
        self.mask_QS = None if mask is None or self.num_tokens == 1 else mask.of(begin, end)

    def __call__(self, layer: int, q_TKGH: Tensor, kv_TK2H: Tensor) -> Tensor:
        """Store one layer's kv_TK2H; y_TKGH."""
        self.new_LTK2H[layer].copy_(kv_TK2H)
        k_1KSH, v_1KSH = self.k_L1KSH[layer], self.v_L1KSH[layer]
        if self.num_tokens == 1:  # the token's G queries stand in for positions: grouped heads are slow at one query
            return F.scaled_dot_product_attention(q_TKGH, k_1KSH, v_1KSH)
        T, K, G, H = q_TKGH.shape
        q_1KQH = q_TKGH.transpose(0, 1).reshape(1, K, T * G, H)
        y_1KQH = F.scaled_dot_product_attention(q_1KQH, k_1KSH, v_1KSH, self.mask_QS)
        return y_1KQH.view(K, T, G, H).transpose(0, 1)


class TileMask:
    """What is added to the scores of a tile's queries: 0 for keys up to each query's own position, -inf for others.

    One table serves all tiles, since a tile's mask depends only on the distance between query and key.
    """

    def __init__(self, config: ModelConfig, tile_tokens: int, dtype: torch.dtype) -> None:
        self.num_positions, self.group = config.max_sequence_length, config.num_queries_per_key_value_head
        key_S = torch.arange(self.num_positions + tile_tokens) - self.num_positions
        later_MS = key_S > torch.arange(tile_tokens)[:, None]
        mask_MS = torch.zeros(later_MS.shape, dtype=dtype).masked_fill_(later_MS, float("-inf"))
        self.mask_MGS = mask_MS.repeat_interleave(self.group, dim=0)

    def of(self, begin: int, end: int) -> Tensor:
        """mask_QS of the tile of tokens begin..end-1, over the keys 0..end-1; a view."""
        first, rows = self.num_positions - begin, (end - begin) * self.group
        return self.mask_MGS[:rows, first : self.num_positions + end - begin]
