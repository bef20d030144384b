"""Keys and values of the tokens seen so far, so that each new token costs one position of compute.

Invariant: positions 0..length-1 of every layer contain exactly what a forward pass over those tokens would compute;
buffers are allocated once and never grow.

Shapes: L layers, B batch, N query heads, K key/value heads, C capacity, S tokens so far including the new ones, T new,
H head width.
"""

import torch
from torch import Tensor

from nemotron4_model import ModelConfig
from nemotron4_model.kernels.attention import attend


class KVCache:
    """A static key/value cache for one batch of equally long sequences."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        capacity: int | None = None,
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate room for `capacity` tokens per sequence (default, and at most, model.max_sequence_length)."""
        capacity = config.max_sequence_length if capacity is None else capacity
        assert 1 <= capacity <= config.max_sequence_length
        shape = (config.num_layers, batch_size, config.num_key_value_heads, capacity, config.attention_head_dim)
        self.k_LBKCH = torch.empty(shape, dtype=dtype, device=device)
        self.v_LBKCH = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def positions(self, num_tokens: int) -> Tensor:
        """position_1T of the next tokens: they follow those that are cached. ValueError if they do not fit."""
        self._check(self.length + num_tokens)
        return torch.arange(self.length, self.length + num_tokens, device=self.k_LBKCH.device)[None]

    def attend(self, layer: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        """Store one layer's keys and values; each new token attends to itself and to those before it: y_BNTH."""
        start = self.length
        return attend(q_BNTH, *self.update(layer, k_BKTH, v_BKTH), start)

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of T new tokens of one layer; return k_BKSH and v_BKSH of all tokens so far.

        The last layer's update increases `length` by T. Raises ValueError if the tokens do not fit.
        """
        end = self.length + k_BKTH.shape[2]
        self._check(end)
        self.k_LBKCH[layer, :, :, self.length : end] = k_BKTH
        self.v_LBKCH[layer, :, :, self.length : end] = v_BKTH
        if layer == self.k_LBKCH.shape[0] - 1:
            self.length = end
        return self.k_LBKCH[layer, :, :, :end], self.v_LBKCH[layer, :, :, :end]

    def _check(self, num_tokens: int) -> None:
        if num_tokens > self.capacity:
            raise ValueError(
                f"the key/value cache has room for {self.capacity} tokens, but {num_tokens} are needed; "
                "shorten the prompt or lower sampling.max_new_tokens"
            )
