"""The Nemotron-4 decoder, top to bottom, in plain PyTorch: the file is the paper.

Invariant: nothing here knows about devices, compilers, meshes, precision policies or training loops. Meshes, precision
and loops are applied from outside; what depends on device, dtype, size or compiler is chosen in `kernels/`.
A module may be handed a shard of its weights (fewer heads, part of the FFN), so head counts are read off the tensors.
Source: Nemotron-4 15B (arXiv 2402.16819) section 2: rotary positions, squared ReLU (arXiv 2109.08668), grouped-query
attention (arXiv 2305.13245), no linear bias, no dropout, untied embeddings; the zero-centred LayerNorm is NVIDIA's.

Shapes: B batch, T new tokens, D hidden, N query heads, K key/value heads, G query heads per
key/value head, H head width, R rotated half of it, F feed-forward, V vocabulary.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemotron4_model.config import ModelConfig
from nemotron4_model.kernels.attention import PackedDocuments, attend, pack
from nemotron4_model.kernels.linear import linear
from nemotron4_model.kernels.rotation import split_and_rotate
from nemotron4_model.kernels.squared_relu import squared_relu_
from nemotron4_model.loss import Loss, linear_cross_entropy
from nemotron4_model.rotary import RotaryTables


class KeyValueCache(Protocol):
    """Keys and values of earlier tokens. What each new token attends to is the cache's choice, its own included."""

    def attend(self, layer: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
        """Store one layer's new keys and values, and attend to them and to earlier ones: y_BNTH."""


class Transformer(nn.Module):
    """The language model: tokens to logits, or to the loss of targets."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = ZeroCentredLayerNorm(config)
        self.head = Head(config)
        self.rotary = RotaryTables(config)

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        *,
        position_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
        end_of_document: int | None = None,
    ) -> Tensor | Loss:
        """Logits logits_BTV, or, given targets, the loss: its mean, and nll_BT of each token, without gradients.

        `position_BT` are the tokens' positions, by default 0..T-1 in each row; B may be 1 if rows do not differ. With a
        cache they must be given. With `last_only`, logits of the last position only (logits_B1V). With
        `end_of_document`, the id of the token that ends a document, each document of a packed row is processed as if
        alone: it attends only to itself, and its positions start at 0. Raises ValueError when the tokens do not fit in
        `model.max_sequence_length`; positions that are given must.
        """
        assert cache is None or position_BT is not None, "a cache does not say where its new tokens are"
        x_BTD, documents = self.embedding(tokens_BT), None
        if end_of_document is not None:
            assert position_BT is None, "the ends of documents say where tokens are"
            position_BT, document_BT = separate_documents(tokens_BT, end_of_document)
            documents = pack(document_BT, x_BTD)
        cos_TR, sin_TR = self.rotary(tokens_BT.shape[1], position_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TR, sin_TR, cache, documents)
        return self.head(self.norm(x_BTD), targets_BT, last_only)  # type: ignore[no-any-return]  # a module's call is Any


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = ZeroCentredLayerNorm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = ZeroCentredLayerNorm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x_BTD: Tensor,
        cos_TR: Tensor,
        sin_TR: Tensor,
        cache: KeyValueCache | None = None,
        documents: PackedDocuments | None = None,
    ) -> Tensor:
        """One residual block, x_BTD to x_BTD."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_TR, sin_TR, cache, documents)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))  # type: ignore[no-any-return]  # a module's call is Any


class Linear(nn.Linear):
    """x @ weight.T: this model has no biases in its linear layers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        return linear(x, self.weight)


class ZeroCentredLayerNorm(nn.Module):
    """LayerNorm with gain 1 + weight ("layernorm1p"): weights start at 0, and weight decay pulls the gain towards 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.eps = config.norm_eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last dimension in fp32; the result has the dtype of x."""
        gain_D = self.weight.float() + 1
        return F.layer_norm(x_BTD.float(), gain_D.shape, gain_D, self.bias.float(), self.eps).to(x_BTD.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with partial rotary positions.

    The rows of `qkv` are grouped by key/value head: its G query heads, then its key, then its value, H rows each. A
    slice of whole groups is therefore a smaller attention, and tensor parallelism gives each rank such a slice.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.attention_head_dim
        self.group = config.num_queries_per_key_value_head
        self.qkv = Linear(config.hidden_size, config.query_width + 2 * config.key_value_width)
        self.out = Linear(config.query_width, config.hidden_size)

    def forward(
        self,
        x_BTD: Tensor,
        cos_TR: Tensor,
        sin_TR: Tensor,
        cache: KeyValueCache | None = None,
        documents: PackedDocuments | None = None,
    ) -> Tensor:
        """x_BTD to x_BTD. The tables may differ by row (cos_BTR). With `documents`, each attends only to itself."""
        qkv_BTKGH = self.qkv(x_BTD).unflatten(-1, (-1, self.group + 2, self.head_dim))
        q_BTNH, k_BTKH, v_BTKH = split_and_rotate(qkv_BTKGH, cos_TR, sin_TR)
        q_BNTH, k_BKTH, v_BKTH = q_BTNH.transpose(1, 2), k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
        if cache is None:
            y_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, 0, documents)
        else:
            y_BNTH = cache.attend(self.layer, q_BNTH, k_BKTH, v_BKTH)
        return self.out(y_BNTH.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a module's call is Any


def separate_documents(tokens_BT: Tensor, end_of_document: int) -> tuple[Tensor, Tensor]:
    """position_BT, counted from 0 in each document, and document_BT, the number of a token's document in its row.

    The token that ends a document belongs to it.
    """
    index_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    starts_BT = F.pad(tokens_BT[:, :-1] == end_of_document, (1, 0), value=False)
    position_BT = index_T - torch.where(starts_BT, index_T, 0).cummax(dim=1).values
    return position_BT, starts_BT.cumsum(dim=1)


class MLP(nn.Module):
    """down(relu(up(x))^2), without a gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """x_BTD to x_BTD."""
        return self.down(squared_relu_(self.up(x_BTD)))  # type: ignore[no-any-return]  # a module's call is Any


class Head(nn.Module):
    """The output matrix, and the loss computed with it, which holds no more than one chunk's logits (loss.py)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor | Loss:
        """logits_BTV (logits_B1V with `last_only`), or the loss if targets are given."""
        if targets_BT is None:
            return F.linear(x_BTD[:, -1:] if last_only else x_BTD, self.weight)
        return linear_cross_entropy(x_BTD, self.weight, targets_BT)
