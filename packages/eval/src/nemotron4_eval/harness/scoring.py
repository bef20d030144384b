"""The log-probabilities of the batches of packing.py, by the engine's weights, quantised or not.

Linear layers see the tokens of a batch side by side, without padding; only attention pads rows to the longest one.

Invariant: log-probabilities are those of each sequence alone, up to the rounding of sums.

Shapes: N tokens of a batch, R rows, T tokens of the longest, P tokens of the prefix, C capacity of its cache, K
key/value heads, G query heads per key/value head, H head width, Q = T G queries in the order (token, head), E = K G H,
V vocabulary, S places where the head is applied.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nemotron4_eval.harness.packing import Batch, Ints
from nemotron4_infer.engine.forward import forward
from nemotron4_infer.weights.engine_weights import EngineWeights
from nemotron4_model.kernels.attention import attend

BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
"""Tokens of one forward pass: on a CPU, as many as leave activations in its caches."""

PREFIX_STEP = 512
"""Tokens of a prefix that are computed at once."""

LOGITS_AT_ONCE = 2**24
"""Logits that exist together: 64 MB in fp32."""

Score = tuple[float, bool]
"""The summed log-probability of a sequence's targets in nats, and whether each is the most likely token."""


class Scorer:
    """Scores batches with the weights of one model. Not thread-safe: it keeps the last prefix."""

    def __init__(self, weights: EngineWeights) -> None:
        self.weights = weights
        self._prefix_ids = np.empty(0, np.int64)
        self._prefix_L2KCH: Tensor | None = None

    @torch.inference_mode()
    def score(self, batch: Batch) -> list[Score]:
        """Of each of the batch's sequences, in their order there."""
        prefix_L2KPH = self._prefix(batch.prefix_ids) if len(batch.prefix_ids) else None
        attention = _RowAttention(self.weights, batch, prefix_L2KPH)
        x_ND = forward(self.weights, self._on_device(batch.token_ids), self._on_device(batch.positions), attention)
        x_SD = x_ND.index_select(0, self._on_device(batch.places))
        num_sequences, rows = len(batch.sequences), max(1, LOGITS_AT_ONCE // self.weights.config.vocab_size)
        log_p, greedy = np.zeros(num_sequences), np.ones(num_sequences, dtype=bool)
        for begin in range(0, len(batch.places), rows):
            first, last = np.searchsorted(batch.pair_places, [begin, begin + rows])
            logits_SV = self.weights.head(x_SD[begin : begin + rows]).float()
            places, targets = batch.pair_places[first:last] - begin, batch.pair_targets[first:last]
            place_M, target_M = self._on_device(places), self._on_device(targets)
            log_p_M = logits_SV.log_softmax(-1)[place_M, target_M].double()
            greedy_M = _is_argmax(logits_SV, place_M, target_M)
            sequences = batch.pair_sequences[first:last]
            np.add.at(log_p, sequences, log_p_M.cpu().numpy())
            np.logical_and.at(greedy, sequences, greedy_M.cpu().numpy())
        return list(zip(log_p.tolist(), greedy.tolist(), strict=True))

    def _on_device(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self.weights.device)

    def _prefix(self, prefix_ids: Ints) -> Tensor:
        """kv_L2KPH; what the last prefix and this one share is not computed again."""
        if self._prefix_L2KCH is None:
            config, weights = self.weights.config, self.weights
            heads, capacity = config.num_key_value_heads, config.max_sequence_length
            shape = (config.num_layers, 2, heads, capacity, config.attention_head_dim)
            self._prefix_L2KCH = torch.empty(shape, dtype=weights.dtype, device=weights.device)
        size = min(len(self._prefix_ids), len(prefix_ids))
        differ = np.flatnonzero(self._prefix_ids[:size] != prefix_ids[:size])
        begin = int(differ[0]) if len(differ) else size
        self._prefix_ids = prefix_ids[:begin]  # what holds, should a step fail
        while begin < len(prefix_ids):
            end = min(begin + PREFIX_STEP, len(prefix_ids))
            ids, positions = self._on_device(prefix_ids[begin:end]), self._on_device(np.arange(begin, end))
            forward(self.weights, ids, positions, _PrefixAttention(self.weights, self._prefix_L2KCH, begin, end))
            begin = end
        self._prefix_ids = prefix_ids
        return self._prefix_L2KCH[:, :, :, : len(prefix_ids)]


def _is_argmax(logits_SV: Tensor, place_M: Tensor, target_M: Tensor) -> Tensor:
    """Whether each target is the first of the most likely tokens after its place."""
    greedy_M = logits_SV[place_M, target_M] == logits_SV.amax(-1)[place_M]
    if greedy_M.any():  # among equals argmax decides; on a CPU it takes several times as long as amax
        greedy_M[greedy_M.clone()] = logits_SV[place_M[greedy_M]].argmax(-1) == target_M[greedy_M]
    return greedy_M


class _PrefixAttention:
    """Attention of a prefix's tokens begin..end-1, whose keys and values are kept."""

    def __init__(self, weights: EngineWeights, kv_L2KCH: Tensor, begin: int, end: int) -> None:
        self.group = weights.config.num_queries_per_key_value_head
        self.kv_L2KCH, self.begin, self.end = kv_L2KCH, begin, end

    def __call__(self, layer: int, qkv_NKGH: Tensor) -> Tensor:
        """y_NE."""
        q_NKGH, kv_NK2H = qkv_NKGH.split_with_sizes((self.group, 2), 2)
        kv_2KCH = self.kv_L2KCH[layer]
        kv_2KCH[:, :, self.begin : self.end] = kv_NK2H.permute(2, 1, 0, 3)
        k_1KSH, v_1KSH = kv_2KCH[:, None, :, : self.end]
        q_1NTH = q_NKGH.flatten(1, 2).transpose(0, 1)[None]
        return attend(q_1NTH, k_1KSH, v_1KSH, self.begin)[0].transpose(0, 1).flatten(1)


class _RowAttention:
    """Attention of a batch's rows: to the prefix, and in the row to the tokens before in the same sequences."""

    def __init__(self, weights: EngineWeights, batch: Batch, prefix_L2KPH: Tensor | None) -> None:
        self.group, self.prefix_L2KPH = weights.config.num_queries_per_key_value_head, prefix_L2KPH
        device = weights.device
        self.shape = len(batch.row_lengths), int(batch.row_lengths.max())
        begins = np.cumsum(batch.row_lengths) - batch.row_lengths
        row, place = np.repeat(np.arange(self.shape[0]), batch.row_lengths), np.arange(len(batch.token_ids))
        place -= begins[row]
        unpadded_N = row * self.shape[1] + place
        self.is_padded = len(batch.token_ids) < self.shape[0] * self.shape[1]
        if self.is_padded:
            padded = np.zeros(self.shape[0] * self.shape[1], np.int64)
            padded[unpadded_N] = np.arange(len(batch.token_ids))
            self.padded_RT = torch.from_numpy(padded).to(device)
            self.unpadded_N = torch.from_numpy(unpadded_N).to(device)
        self.is_chain = prefix_L2KPH is None and bool((batch.parents == place - 1).all())
        if not self.is_chain:
            num_prefix = len(batch.prefix_ids)
            mask_RTS = _may_see(batch, begins, self.shape, num_prefix)
            added = torch.zeros(mask_RTS.shape, dtype=weights.dtype)
            added.masked_fill_(~torch.from_numpy(mask_RTS), -torch.inf)
            self.mask_R1QS = added.repeat_interleave(self.group, dim=1)[:, None].to(device)

    def __call__(self, layer: int, qkv_NKGH: Tensor) -> Tensor:
        """y_NE."""
        x_RTKGH = (qkv_NKGH.index_select(0, self.padded_RT) if self.is_padded else qkv_NKGH).unflatten(0, self.shape)
        q_RTKGH, kv_RTK2H = x_RTKGH.split_with_sizes((self.group, 2), 3)
        k_RKTH, v_RKTH = kv_RTK2H.permute(3, 0, 2, 1, 4)
        if self.is_chain:
            y_RTNH = attend(q_RTKGH.flatten(2, 3).transpose(1, 2), k_RKTH, v_RKTH, 0).transpose(1, 2)
            y = y_RTNH.flatten(0, 1).flatten(1)
        else:
            if self.prefix_L2KPH is not None:
                num_rows = self.shape[0]
                prefix_2RKPH = self.prefix_L2KPH[layer][:, None].expand(-1, num_rows, -1, -1, -1)
                k_RKTH, v_RKTH = (
                    torch.cat([prefix, own], dim=2) for prefix, own in zip(prefix_2RKPH, (k_RKTH, v_RKTH), strict=True)
                )
            q_RKQH = q_RTKGH.transpose(1, 2).flatten(2, 3)
            y_RKQH = F.scaled_dot_product_attention(q_RKQH, k_RKTH, v_RKTH, self.mask_R1QS)
            y = y_RKQH.unflatten(2, (-1, self.group)).transpose(1, 2).flatten(0, 1).flatten(1)
        return y.index_select(0, self.unpadded_N) if self.is_padded else y


def _may_see(batch: Batch, begins: Ints, shape: tuple[int, int], num_prefix: int) -> NDArray[np.bool_]:
    """mask_RTS over the prefix and the row: True for what comes before a token in its sequences, and itself.

    Tokens of padding see the prefix and the first token: no row of a mask may be empty.
    """
    mask_RTS = np.zeros((*shape, num_prefix + shape[1]), dtype=np.bool_)
    mask_RTS[:, :, : num_prefix + 1] = True
    own_RTT = mask_RTS[:, :, num_prefix:]
    below = np.tri(shape[1], dtype=np.bool_)
    for row, (begin, length) in enumerate(zip(begins, batch.row_lengths, strict=True)):
        parents = batch.parents[begin : begin + length]
        # A branch is a chain of tokens that follows any earlier one, or the prefix.
        bounds = [0, *np.flatnonzero(parents != np.arange(length) - 1), length]
        for first, last in pairwise(bounds):
            parent = parents[first]
            own_RTT[row, first:last, :first] = own_RTT[row, parent, :first] if parent >= 0 else False
            own_RTT[row, first:last, first:last] = below[: last - first, : last - first]
    return mask_RTS
