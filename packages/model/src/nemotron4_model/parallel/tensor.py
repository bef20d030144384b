"""Tensor and sequence parallelism: which matrix is split along which dimension, and the two layers that need care.

Invariant: between layers, each rank of the tensor axis holds the residual stream of its own T/t positions; inside
attention and MLP, all T positions of its own heads and FFN columns. No rank holds a whole vocabulary-sized tensor in
training.
Source: Megatron-LM (arXiv 1909.08053 section 3), sequence parallelism (arXiv 2205.05198 section 4.2.2).

Shapes: B batch, T tokens, D hidden, V vocabulary, t ranks of the tensor axis.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from nemotron4_model.config import ModelConfig
from nemotron4_model.loss import Loss, VocabularyShard, linear_cross_entropy
from nemotron4_model.transformer import Transformer


def check_tensor_parallel(config: ModelConfig, tensor_size: int) -> None:
    """Raise ValueError unless every dimension that is split divides evenly."""
    for name in ("num_key_value_heads", "intermediate_size", "vocab_size"):
        size = getattr(config, name)
        if size % tensor_size:
            raise ValueError(
                f"topology.tensor ({tensor_size}): must divide model.{name} ({size}); lower topology.tensor"
            )


def apply_tensor_parallel(model: Transformer, mesh: DeviceMesh) -> None:
    """Turn every parameter into a DTensor on the one-axis `mesh`, in place, and add the collectives."""
    plan = {
        "attention_norm": SequenceParallel(),
        "attention.qkv": ColwiseParallel(input_layouts=Shard(1)),
        "attention.out": RowwiseParallel(output_layouts=Shard(1)),
        "mlp_norm": SequenceParallel(),
        "mlp.up": ColwiseParallel(input_layouts=Shard(1)),
        "mlp.down": RowwiseParallel(output_layouts=Shard(1)),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    parallelize_module(model.norm, mesh, SequenceParallel())
    model.embedding = cast("nn.Embedding", VocabularyParallelEmbedding(model.embedding.weight, mesh))
    model.head = cast("nn.Module", VocabularyParallelHead(model.head.weight, mesh))  # type: ignore[assignment]  # same interface


class VocabularyParallelEmbedding(nn.Module):
    """Each rank looks up the tokens whose rows it holds; the sum over ranks is scattered along the sequence.

    With torch's RowwiseParallel on nn.Embedding, every rank would build the gradient of the whole vocabulary.
    """

    def __init__(self, weight_VD: Tensor, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.weight = nn.Parameter(distribute_tensor(weight_VD, mesh, [Shard(0)], src_data_rank=None))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """tokens_BT to this rank's positions x_BtD; ValueError when the size of the tensor axis does not divide T."""
        if tokens_BT.shape[1] % self.mesh.size():
            raise ValueError(
                f"topology.tensor ({self.mesh.size()}): must divide the sequence length ({tokens_BT.shape[1]}), of "
                "which sequence parallelism gives each rank an equal part; change one of them"
            )
        weight_VD = cast("DTensor", self.weight).to_local()
        local_BT = tokens_BT - self.mesh.get_local_rank() * weight_VD.shape[0]
        elsewhere_BT = (local_BT < 0) | (local_BT >= weight_VD.shape[0])
        x_BTD = F.embedding(local_BT.masked_fill(elsewhere_BT, 0), weight_VD)
        x_BTD = x_BTD.masked_fill(elsewhere_BT[..., None], 0)
        summed: DTensor = DTensor.from_local(x_BTD, self.mesh, [Partial()], run_check=False)
        return summed.redistribute(placements=[Shard(1)]).to_local().clone()  # FSDP2 warns about hooks on views


class VocabularyParallelHead(nn.Module):
    """Each rank computes the logits of its own words; the loss needs three reductions over ranks, not the logits."""

    def __init__(self, weight_VD: Tensor, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.weight = nn.Parameter(distribute_tensor(weight_VD, mesh, [Shard(0)], src_data_rank=None))

    def forward(self, x_BtD: DTensor, targets_BT: Tensor | None = None, last_only: bool = False) -> Tensor | Loss:
        """Like transformer.Head, given the final norm's DTensor: whole logits_BTV, or the whole loss, on every rank."""
        # Each rank's gradient comes from its own words only: Partial makes backward a reduce-scatter.
        x_BTD = x_BtD.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        weight_VD = cast("DTensor", self.weight).to_local()
        if targets_BT is None:
            logits = F.linear(x_BTD[:, -1:] if last_only else x_BTD, weight_VD)
            return DTensor.from_local(logits, self.mesh, [Shard(2)], run_check=False).full_tensor()
        shard = VocabularyShard(self.mesh.get_local_rank() * weight_VD.shape[0], self.mesh.get_group())
        return linear_cross_entropy(x_BTD, weight_VD, targets_BT, shard=shard)
