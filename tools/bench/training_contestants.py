"""A training step of ours and of others: the same width, depth, heads, vocabulary, batch and optimiser.

Invariant: weights, gradients and the optimiser's state are fp32 in every contestant. bf16 is what each of them calls
mixed precision: ours casts weights through FSDP2 on a mesh of one rank, as `nemotron4 train precision=bf16` does; the
others compute under torch.autocast, as Lightning Fabric's bf16-mixed and the Trainer of transformers do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from peers import nemotron_of
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from nemotron4_model import ModelConfig, Transformer, initialise, parallelise

Loss = Callable[[Tensor, Tensor], Tensor]
"""inputs_BT and targets_BT to the mean loss, which has gradients."""


@dataclass(frozen=True)
class Trained:
    """A model, and its loss."""

    model: nn.Module
    loss: Loss

    @property
    def num_parameters(self) -> int:
        """All of them, embeddings included."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def ours(config: ModelConfig, precision: str, compile_blocks: bool = False) -> Trained:
    """As `nemotron4 train` builds it."""
    model, mesh = Transformer(config), None
    initialise(model, 0, config)
    if precision == "bf16":
        if not dist.is_initialized():
            # torch does not list HashStore as public, though its documentation does.
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        mesh = init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("replicate", "shard", "tensor"))
    parallelise(
        model,
        mesh,
        compile=compile_blocks,
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        reshard_after_forward=False,
    )
    return Trained(model, lambda inputs_BT, targets_BT: model(inputs_BT, targets_BT).mean)


def transformers_nemotron(config: ModelConfig, precision: str, seed: int = 0) -> Trained:
    """NemotronForCausalLM with the weights of ours, and its loss by F.cross_entropy in fp32."""
    origin = Transformer(config)
    initialise(origin, seed, config)
    model = nemotron_of(origin).train()

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs_BT, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets_BT.flatten())

    return Trained(model, loss)


def litgpt_closest(config: ModelConfig, precision: str) -> Trained:
    """litgpt's GPT with our widths, and its chunked loss as its pretraining calls it.

    Grouped queries, rotary positions on half of a head and LayerNorm with a bias are as in ours, so it has as many
    parameters. litgpt has no squared ReLU: GptNeoxMLP has GELU in its place. Its initial weights are its own.
    """
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config(
            block_size=config.max_sequence_length,
            n_layer=config.num_layers,
            n_embd=config.hidden_size,
            vocab_size=config.vocab_size,
            padded_vocab_size=config.vocab_size,
            n_head=config.num_attention_heads,
            n_query_groups=config.num_key_value_heads,
            head_size=config.attention_head_dim,
            intermediate_size=config.intermediate_size,
            mlp_class_name="GptNeoxMLP",
            norm_class_name="LayerNorm",
            norm_eps=config.norm_eps,
            rotary_percentage=config.rotary_fraction,
            parallel_residual=False,
            bias=False,
        )
    )
    torch.manual_seed(0)
    model.apply(model._init_weights)

    def loss(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(inputs_BT)
        return chunked_cross_entropy(logits.float(), targets_BT)  # Fabric gives modules' outputs back in fp32

    return Trained(model, loss)


class Steps:
    """Repeated steps on one batch of random tokens: forward, backward and fused AdamW."""

    def __init__(self, trained: Trained, vocab_size: int, sequences: int, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens_BT = torch.randint(vocab_size, (sequences, length + 1), generator=generator)
        self._batch = tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()
        self._loss = trained.loss
        # A rate at which the loss hardly moves, so that the work stays the same.
        self._optimizer = torch.optim.AdamW(trained.model.parameters(), lr=1e-6, fused=True)

    def __call__(self, count: int) -> dict[str, Any]:
        """The mean over so many steps: tokens/s ("speed"), seconds, those of the optimiser, and the last loss."""
        begin, of_optimizer, loss = time.perf_counter(), 0.0, 0.0
        for _ in range(count):
            of_batch = self._loss(*self._batch)
            of_batch.backward()
            start = time.perf_counter()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            of_optimizer += time.perf_counter() - start
            loss = of_batch.item()
        seconds = (time.perf_counter() - begin) / count
        return {
            "speed": self._batch[0].numel() / seconds,
            "seconds": seconds,
            "optimizer_seconds": of_optimizer / count,
            "loss": loss,
        }
