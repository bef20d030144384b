"""The memory of one rank at the peak of a step, predicted from the model's shape and the layout, in bytes by kind.

A step has a few moments at which memory can be highest: the loss, the reduction of the head's gradient, the backward
pass of the last blocks and of the first one, that of the embedding, and the optimiser. Each is added up in closed form
from what is alive then, and the largest is the prediction, so kinds that are never alive together are not added.
Invariant: no torch; elements are divided over ranks without padding.
Sources: what is alive is read off loss.py, transformer.py and FSDP2 (torch/distributed/fsdp/_fully_shard); activations
of Megatron-LM, arXiv 2205.05198 sections 4 and 5; its distributed optimizer keeps 2 + 2 (or 4) + 12 / ranks bytes a
parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.layout import Layout, Sharding
from nemotron4_train.job import OptimizerKind
from nemotron4_train.topology import Device

_ALLOWANCE_BYTES = {Device.cpu: 500_000_000, Device.cuda: 2_000_000_000}
"""Not computed: on CUDA, the context, loaded kernels, NCCL's buffers and workspaces of libraries."""
_FRAGMENTATION = 0.05
"""Not computed: what the allocator holds and cannot use, a share of what is allocated."""
CPU_LOGITS_BYTES, LOGITS_BYTES, MIN_CHUNK_TOKENS, TILE_TOKENS = 24 << 20, 1 << 31, 128, 256
"""The sizes of a chunk in loss.py, and the next of attention.py, which import torch."""
MAX_BLOCKED_TOKENS = 1_024


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank at the peak of a step, by kind; all but `host` on its device."""

    parameters: int
    """Its shard, in fp32."""
    gradients: int
    """Those that exist at the peak: sharded, not yet sharded, and in FSDP's buffers for reducing them."""
    optimizer: int
    activations: int
    """What the blocks keep for backward, and what one block needs while it is computed."""
    logits: int
    """The loss's chunk of logits, and what the head makes of it."""
    gathered: int
    """Weights that FSDP has gathered at the peak, in the format of the products."""
    allowance: int
    """Stated, not computed: context, NCCL's buffers, fragmentation of the allocator."""
    host: int
    """Of host memory: the copy that a checkpoint is written from."""
    lasting_gradients: int = 0
    """Gradients that stay allocated between steps; ours do not."""

    @property
    def allocated(self) -> int:
        """What is allocated at the peak: all but the allowance."""
        kinds = (self.parameters, self.gradients, self.optimizer, self.activations, self.logits, self.gathered)
        return sum(kinds)

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.allocated + self.allowance

    @property
    def resident(self) -> int:
        """What stays allocated between steps."""
        return self.parameters + self.lasting_gradients + self.optimizer


def memory(model: ModelConfig, layout: Layout, optimizer: OptimizerKind = OptimizerKind.adamw) -> Memory:
    """Predict the memory of a rank."""
    if layout.sharding is Sharding.distributed_optimizer:
        return _Megatron(model, layout).peak()
    return max(_Fsdp(model, layout, optimizer).moments(), key=lambda moment: moment.allocated)


def _allowance(layout: Layout, allocated: int) -> int:
    return _ALLOWANCE_BYTES[layout.device] + int(_FRAGMENTATION * allocated)


def _size(dtype: DType) -> int:
    return {DType.fp32: 4, DType.bf16: 2}[dtype]


@dataclass(frozen=True)
class _Shape:
    """What both recipes share: elements on one rank of the tensor axis, and bytes of one."""

    model: ModelConfig
    layout: Layout

    @cached_property
    def block(self) -> int:
        """Weights of a block; each rank has its norms."""
        model, norms = self.model, 4 * self.model.hidden_size
        matrices = (model.num_non_embedding_parameters - norms // 2) // model.num_layers - norms
        return matrices // self.layout.tensor + norms

    @cached_property
    def words(self) -> int:
        """Weights of the embedding, and as many of the head."""
        return self.model.vocab_size // self.layout.tensor * self.model.hidden_size

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.layout.micro_batch_size * self.layout.sequence_length

    @property
    def c(self) -> int:
        """Bytes of an element in the format that is computed in."""
        return _size(self.layout.compute.dtype)

    @property
    def r(self) -> int:
        """Bytes of an element in the format that gradients are reduced in."""
        return _size(self.layout.reduce)


@dataclass(frozen=True)
class _Fsdp(_Shape):
    """Ours. Blocks are numbered from 0; backward begins with the last."""

    optimizer: OptimizerKind

    def moments(self) -> Iterator[Memory]:
        """The step's moments at which memory can be highest."""
        yield self._loss()
        yield self._head()
        last = self.model.num_layers - 1
        for number in {last, max(last - 1, 0), 0}:
            yield from self._block(number)
        yield from self._embedding()
        yield self._moment(gradients=self._gradients(self.all, 0), optimizing=self._optimizing())

    @cached_property
    def all(self) -> int:
        """Weights of the model on one rank of the tensor axis."""
        return self.model.num_layers * self.block + 2 * self.words + 2 * self.model.hidden_size

    @property
    def is_meshed(self) -> bool:
        """Whether FSDP2 is used at all, as lightning/strategy.py decides."""
        return self.layout.num_devices > 1 or self.c < 4

    @property
    def gathers(self) -> bool:
        """Whether weights come from other ranks, through a flat buffer of FSDP2's."""
        return self.layout.shard > 1

    @property
    def keeps(self) -> bool:
        """Whether weights stay gathered from forward to backward."""
        return not self.layout.reshard_after_forward or not self.gathers

    def _moment(
        self, *, gradients: int, activations: int = 0, logits: int = 0, gathered: int = 0, optimizing: int = 0
    ) -> Memory:
        parameters = 4 * self.all // self.layout.shard + self.model.rotary_table_bytes
        by_muon = self.model.num_layers * self.block if self.optimizer is OptimizerKind.muon else 0
        state = 4 * (2 * self.all - by_muon) // self.layout.shard
        gathered *= self.is_meshed
        return Memory(
            parameters=parameters,
            gradients=gradients,
            optimizer=state + optimizing,
            activations=activations,
            logits=logits,
            gathered=gathered,
            allowance=_allowance(
                self.layout, parameters + gradients + state + optimizing + activations + logits + gathered
            ),
            host=parameters + state,
        )

    def _optimizing(self) -> int:
        """What Muon needs for the largest matrix, which one rank iterates on whole: five of it, two of its square."""
        model = self.model
        if self.optimizer is not OptimizerKind.muon:
            return 0
        columns, rows = model.hidden_size, max(model.intermediate_size, model.query_width + 2 * model.key_value_width)
        elements = 5 * rows * columns + 2 * min(rows, columns) ** 2
        return (4 if self.layout.device is Device.cpu else 2) * elements

    def _gradients(self, reduced: int, waiting: int) -> int:
        """Bytes of gradients when so many elements are reduced, and so many will be after the last micro-batch."""
        kept_for_all_reduce = self.r if self.layout.replicate > 1 and self.r < 4 else 0
        accumulated = (self.r if self.is_meshed else 4) * waiting * (self.layout.num_micro_batches > 1)
        return (4 + kept_for_all_reduce) * reduced // self.layout.shard + accumulated

    def _reducing(self, elements: int) -> int:
        """A gradient as it was computed or accumulated, and the buffers that it is reduced in: whole, then a shard."""
        if not self.is_meshed:
            return 4 * elements
        shard = elements // self.layout.shard
        computed = self.r if self.layout.num_micro_batches > 1 else self.c
        return computed * elements + self.r * (elements + shard) + 4 * shard * (self.r < 4)

    def _loss(self) -> Memory:
        """The last chunk of the loss: forward is complete, and the head's gradient is being summed in fp32."""
        model, layout = self.model, self.layout
        words = model.vocab_size // layout.tensor
        on_cpu = layout.device is Device.cpu
        # On a CPU, logits below fp32 go through an fp32 buffer, and products of gradients through one of their own.
        logit = 4 + self.c if on_cpu and self.c < 4 else self.c
        if on_cpu:
            chunk = max(MIN_CHUNK_TOKENS, CPU_LOGITS_BYTES // (logit * words))
        else:
            chunk = max(TILE_TOKENS, LOGITS_BYTES // (logit * words) // TILE_TOKENS * TILE_TOKENS)
        gradient = (4 + (self.c if on_cpu and self.c < 4 else 0)) * self.words
        has_flat = self.gathers and not (self.keeps and layout.num_micro_batches > 1)  # later ones gather nothing
        gathered = self.c * self.words * (1 + has_flat)
        if self.keeps:
            gathered += self.c * (model.num_layers * self.block + self.words)
        return self._moment(
            gradients=self._gradients(0, self.all),
            activations=self._kept(model.num_layers) + self.tokens * self._around_head(2),
            logits=min(chunk, self.tokens) * words * logit + gradient,
            gathered=gathered,
        )

    def _around_head(self, whole: int) -> int:
        """Bytes a token of the final norm's input and output and, of all positions, of so many tensors more."""
        hidden, tensor = self.model.hidden_size, self.layout.tensor
        return (4 + self.c) * hidden // tensor + whole * self.c * hidden

    def _head(self) -> Memory:
        """The head's gradient, in fp32, is cast; then reduced, while the last block's weights are gathered."""
        kept = self._kept(self.model.num_layers) + self.tokens * self._around_head(1)
        blocks = self.model.num_layers if self.keeps else int(self.gathers)
        gathered = self.c * (blocks * self.block + self.keeps * 2 * self.words)
        cast = (4 + (self.c if self.c < 4 else 0)) * self.words
        reducing = self._reducing(self.words)
        others = self.all - self.words
        if reducing >= cast + self._gradients(0, self.words):
            return self._moment(gradients=self._gradients(0, others) + reducing, activations=kept, gathered=gathered)
        return self._moment(gradients=self._gradients(0, self.all), activations=kept, logits=cast, gathered=gathered)

    def _block(self, number: int) -> Iterator[Memory]:
        """Backward of a block: while the MLP's gradients are computed, at its end, and as they are reduced."""
        model, layout, c = self.model, self.layout, self.c
        is_last = number == model.num_layers - 1
        reduced = self.words + (model.num_layers - 1 - number) * self.block
        waiting = number * self.block + self.words
        before = (
            self.r * (self.words if is_last else self.block) * self.is_meshed
        )  # still in the buffer of its reduction
        next_one = c * self.block * (number > 0 and self.gathers)
        others = c * (number * self.block + self.words) if self.keeps else next_one
        gradients = self._gradients(reduced, waiting + self.block)
        hidden = model.hidden_size
        matrix = hidden * model.intermediate_size // layout.tensor
        yield self._moment(
            gradients=gradients + before + c * matrix,
            activations=self._kept(number) + self.tokens * (self._kept_by_block(Recompute.none) + self._work()),
            gathered=others + c * self.block,
        )
        small = self._kept(number) + self.tokens * (c * hidden + 8 * hidden // layout.tensor)
        yield self._moment(
            gradients=gradients + before + c * self.block, activations=small, gathered=others + c * self.block
        )
        yield self._moment(
            gradients=self._gradients(reduced, waiting) + self._reducing(self.block),
            activations=small,
            gathered=others,
        )

    def _embedding(self) -> Iterator[Memory]:
        """Backward of the embedding, whose gradient is dense: computed, then reduced."""
        before = self.r * self.block * self.is_meshed
        gradients = self._gradients(self.all - self.words, self.words)
        yield self._moment(
            gradients=gradients + before + self.c * self.words,
            activations=self.tokens * self.model.hidden_size * self.c * 2,
            gathered=self.c * self.words * self.keeps,
        )
        yield self._moment(gradients=self._gradients(self.all - self.words, 0) + self._reducing(self.words))

    def _kept(self, blocks: int) -> int:
        """Bytes that so many blocks keep for backward."""
        return blocks * self._kept_by_block(self.layout.recompute) * self.tokens

    def _kept_by_block(self, recompute: Recompute) -> int:
        """Bytes a token that a block keeps for backward, as ModelConfig.activation_bytes_per_token counts them.

        Uncompiled, norms keep their inputs in the fp32 that they compute in. The tensor axis divides all but the
        inputs of its two column-wise products, which are gathered for them, and, selectively, the output of attention's
        last product, which is kept before it is summed over ranks.
        """
        model, layout, c = self.model, self.layout, self.c
        hidden, inner, query = model.hidden_size, model.intermediate_size, model.query_width
        attention = c * (2 * query + 2 * model.key_value_width)
        scores = self._scores_per_token()
        if recompute is Recompute.full:
            return c * hidden // layout.tensor
        if recompute is Recompute.selective:
            output = c * query if scores else 0
            return (c * (hidden + inner) + attention - output) // layout.tensor + c * hidden
        norm_inputs = 2 * hidden * (c if layout.compile else 4)
        return (norm_inputs + attention + 2 * c * inner + scores) // layout.tensor + 2 * c * hidden

    def _scores_per_token(self) -> int:
        """Bytes of attention weights that short sequences keep on a CPU: half a square, in blocks of queries."""
        length = self.layout.sequence_length
        if self.layout.device is not Device.cpu or length > MAX_BLOCKED_TOKENS:
            return 0
        queries = min(length, 32 if self.c == 4 else 64)
        return self.c * self.model.num_attention_heads * (length + queries) // 2

    def _work(self) -> int:
        """Bytes a token that backward of a block's MLP needs beside what the block has kept."""
        hidden, inner, tensor = self.model.hidden_size, self.model.intermediate_size, self.layout.tensor
        gathered = self.c * hidden * (tensor > 1)
        # Gathered along the sequence, the gradient of several sequences is copied once more.
        copied = gathered * (1 + (self.layout.micro_batch_size > 1))
        return self.c * hidden // tensor + max(gathered + self.c * inner // tensor, copied)


@dataclass(frozen=True)
class _Megatron(_Shape):
    """Megatron-LM: whole weights and gradients on every data-parallel rank, its optimiser's state divided."""

    def peak(self) -> Memory:
        """At the loss of the first pipeline stage, or of the only one."""
        model, layout = self.model, self.layout
        blocks = -(-model.num_layers // layout.pipeline)
        weights = blocks * self.block + (2 if layout.pipeline == 1 else 1) * self.words
        hidden, inner = model.hidden_size, model.intermediate_size
        kept = self.c * (4 * hidden + 2 * model.query_width + 2 * model.key_value_width + 2 * inner)
        if layout.recompute is Recompute.full:
            kept = self.c * hidden
        # Micro-batches that the first stage has under way, in units of its blocks.
        under_way = layout.pipeline + (layout.pipeline - 1) / layout.virtual_stages * (layout.virtual_stages > 1)
        activations = int(blocks * kept // layout.tensor * self.tokens * under_way)
        logits = (self.c + 8) * self.tokens * model.vocab_size // layout.tensor * (layout.pipeline == 1)
        kinds = {
            "parameters": 2 * weights,
            "gradients": self.r * weights,
            "optimizer": 12 * weights // layout.num_data_ranks,
            "activations": activations,
            "logits": logits,
            "gathered": 0,
        }
        allowance = _allowance(layout, sum(kinds.values()))
        return Memory(**kinds, allowance=allowance, host=kinds["optimizer"], lasting_gradients=kinds["gradients"])
