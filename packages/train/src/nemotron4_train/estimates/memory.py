"""The memory of one rank at the peak of a step, predicted from the model's shape and the layout, in bytes by kind.

Memory can be highest at a few moments of a step: the loss, the reduction of the head's gradient, the backward pass of
the last blocks and of the first, that of the embedding, and the optimiser. What is alive at each is added up, and the
largest sum is the prediction, so that what is never alive at the same time is not added.
Invariant: no torch; elements are divided over ranks without padding.
Sources: what is alive is read off loss.py, transformer.py and FSDP2 (torch.distributed.fsdp._fully_shard); of
Megatron-LM, activations and pipeline are those of arXiv 2205.05198 sections 4 and 5, and its documentation counts
2 + 2 (or 4) + 12 / ranks bytes a parameter with its distributed optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_train.estimates.activations import bytes_kept_per_token, bytes_of_work_per_token
from nemotron4_train.estimates.layout import Layout, Sharding
from nemotron4_train.job import OptimizerKind
from nemotron4_train.topology import Device

_ALLOWANCE_BYTES = {Device.cpu: 500_000_000, Device.cuda: 2_000_000_000}
"""Not computed: the interpreter and libraries; on CUDA, the context, kernels, NCCL's buffers, workspaces of cuBLAS."""
_FRAGMENTATION = 0.05
"""Not computed: what the allocator holds and cannot use, as a share of what is allocated."""
LOGITS_BYTES = {Device.cpu: 24 << 20, Device.cuda: 1 << 31}
MIN_CHUNK_TOKENS, TILE_TOKENS = 128, 256
"""The sizes of a chunk of logits, as in loss.py, which imports torch."""


KINDS = ("parameters", "gradients", "optimizer", "activations", "logits", "gathered", "allowance")
"""Of `Memory`, what is on the device: its `total`."""


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
        return self.total - self.allowance

    @property
    def total(self) -> int:
        """What the device must have."""
        return sum(getattr(self, kind) for kind in KINDS)

    @property
    def resident(self) -> int:
        """What stays allocated between steps."""
        return self.parameters + self.lasting_gradients + self.optimizer


def memory(model: ModelConfig, layout: Layout, optimizer: OptimizerKind = OptimizerKind.adamw) -> Memory:
    """Predict the memory of a rank."""
    if layout.sharding is Sharding.distributed_optimizer:
        return _of_distributed_optimizer(_Weights(model, layout.tensor), layout)
    return max(_Fsdp(model, layout, optimizer).moments(), key=lambda moment: moment.allocated)


def _with_allowance(layout: Layout, kinds: dict[str, int], **others: int) -> Memory:
    allowance = _ALLOWANCE_BYTES[layout.device] + int(_FRAGMENTATION * sum(kinds.values()))
    return Memory(**kinds, **others, allowance=allowance)


@dataclass(frozen=True)
class _Weights:
    """Elements of a model's weights on one rank of the tensor axis, before data-parallel ranks divide them."""

    model: ModelConfig
    tensor: int

    @cached_property
    def block(self) -> int:
        """Of a block; each rank of the tensor axis has its norms."""
        model, norms = self.model, 4 * self.model.hidden_size
        matrices = (model.num_non_embedding_parameters - norms // 2) // model.num_layers - norms
        return matrices // self.tensor + norms

    @cached_property
    def words(self) -> int:
        """Of the embedding, and as many of the head."""
        return self.model.vocab_size // self.tensor * self.model.hidden_size

    @cached_property
    def total(self) -> int:
        """Of the model."""
        return self.model.num_layers * self.block + 2 * self.words + 2 * self.model.hidden_size


class _Fsdp:
    """The moments of a step of ours. Blocks are numbered from 0; backward begins with the last."""

    def __init__(self, model: ModelConfig, layout: Layout, optimizer: OptimizerKind) -> None:
        self.model, self.layout, self.optimizer = model, layout, optimizer
        self.weights = _Weights(model, layout.tensor)
        self.size, self.reduced_size = layout.compute.dtype.num_bytes, layout.reduce.num_bytes
        self.tokens = layout.micro_batch_size * layout.sequence_length
        self.accumulates = layout.num_micro_batches > 1
        self.accumulates_whole = self.accumulates and not layout.reduce_each_micro_batch
        self.is_meshed = layout.num_devices > 1 or self.size < 4  # else FSDP2 is not used (lightning/strategy.py)
        self.gathers = layout.shard > 1
        self.keeps_gathered = not (self.gathers and layout.reshard_after_forward)

    def moments(self) -> Iterator[Memory]:
        """Those at which memory can be highest."""
        yield self._loss(is_first=True)
        if self.accumulates:
            yield self._loss(is_first=False)
        yield from self._head()
        last = self.model.num_layers - 1
        # Where earlier micro-batches reduce gradients too, but free no weights, memory may be highest there.
        is_earlier_high = self.accumulates and not self.accumulates_whole and self.keeps_gathered
        for is_last in (True, False) if is_earlier_high else (True,):
            for number in {last, max(last - 1, 0), min(1, last), 0}:
                yield from self._block(number, is_last)
            yield from self._embedding(is_last)
        yield self._moment(gradients=self._gradients(self.weights.total, 0), optimizing=self._optimizing())

    def _moment(
        self, *, gradients: int, activations: int = 0, logits: int = 0, gathered: int = 0, optimizing: int = 0
    ) -> Memory:
        """`optimizing` is what the optimiser's step needs beside its state; `gathered` counts on a mesh only."""
        shard = self.layout.shard
        parameters = 4 * self.weights.total // shard + self.model.rotary_table_bytes
        by_muon = self.model.num_layers * self.weights.block if self.optimizer is OptimizerKind.muon else 0
        state = 4 * (2 * self.weights.total - by_muon) // shard
        kinds = {
            "parameters": parameters,
            "gradients": gradients,
            "optimizer": state + optimizing,
            "activations": activations,
            "logits": logits,
            "gathered": gathered * self.is_meshed,
        }
        return _with_allowance(self.layout, kinds, host=parameters + state)

    def _gradients(self, reduced: int, waiting: int, is_last: bool = True) -> int:
        """Bytes of gradients in a micro-batch: of elements that it has reduced, and of those still to come."""
        if not is_last:
            return self._accumulated(reduced + waiting)
        held = 4
        if self.layout.replicate > 1 and self.reduced_size < 4:
            held += self.reduced_size  # FSDP2 holds what it has summed over replicas until backward ends
        return held * reduced // self.layout.shard + self._accumulated(waiting)

    def _accumulated(self, elements: int) -> int:
        """Bytes of the sum of earlier micro-batches' gradients."""
        if not self.accumulates:
            return 0
        if self.accumulates_whole:
            return (self.reduced_size if self.is_meshed else 4) * elements
        return (4 if self.layout.replicate == 1 else self.reduced_size) * elements // self.layout.shard

    def _reducing(self, elements: int) -> int:
        """Bytes of a gradient while it is reduced: computed or accumulated, in the buffers, and as a shard in fp32."""
        if not self.is_meshed:
            return 4 * elements
        shard = elements // self.layout.shard
        gradient = self.reduced_size * elements if self.accumulates_whole else self.size * elements
        gradient += 0 if self.accumulates_whole else self._accumulated(elements)
        return gradient + self.reduced_size * (elements + shard) + 4 * shard * (self.reduced_size < 4)

    def _loss(self, *, is_first: bool) -> Memory:
        """A chunk of the loss: forward is complete, and the head's gradient is being summed in fp32.

        The first micro-batch of a step has gathered the weights just now; the last has the gradients of those before.
        """
        layout, weights, size = self.layout, self.weights, self.size
        words = self.model.vocab_size // layout.tensor
        # On a CPU, bf16 logits also go through an fp32 buffer, and products of the gradient through one in bf16.
        on_cpu = layout.device is Device.cpu
        beside = on_cpu and size < 4
        logit, gradient = size + 4 * beside, 4 + size * beside
        chunk = LOGITS_BYTES[layout.device] // (logit * words)
        chunk = max(MIN_CHUNK_TOKENS, chunk) if on_cpu else max(TILE_TOKENS, chunk // TILE_TOKENS * TILE_TOKENS)
        # Gathered weights are copied out of a flat buffer, which lasts as long as the head's.
        from_buffer = self.gathers and (is_first or not self.keeps_gathered)
        gathered = weights.words * (1 + from_buffer)
        if self.keeps_gathered:
            gathered += self.model.num_layers * weights.block + weights.words
        return self._moment(
            gradients=0 if is_first else self._accumulated(weights.total),
            activations=self._kept(self.model.num_layers) + self._around_head(2),
            logits=min(chunk, self.tokens) * words * logit + gradient * weights.words,
            gathered=size * gathered,
        )

    def _around_head(self, whole: int) -> int:
        """Bytes of the final norm's input, in both formats, and of `whole` tensors of all positions."""
        hidden = self.model.hidden_size
        return self.tokens * ((4 + self.size) * hidden // self.layout.tensor + whole * self.size * hidden)

    def _head(self) -> Iterator[Memory]:
        """The head's gradient is cast, then reduced; the last block's weights are being gathered."""
        weights, size = self.weights, self.size
        activations = self._kept(self.model.num_layers) + self._around_head(1)
        gathered = size * weights.block * self.gathers
        if self.keeps_gathered:
            gathered = size * (self.model.num_layers * weights.block + 2 * weights.words)
        cast = (4 + size * (size < 4)) * weights.words
        waiting = self._gradients(0, weights.total)
        yield self._moment(gradients=waiting, activations=activations, logits=cast, gathered=gathered)
        gradients = self._gradients(0, weights.total - weights.words) + self._reducing(weights.words)
        yield self._moment(gradients=gradients, activations=activations, gathered=gathered)

    def _block(self, number: int, is_last: bool) -> Iterator[Memory]:
        """Backward of a block: in its MLP, at its end, and as its gradients are reduced."""
        model, layout, weights, size = self.model, self.layout, self.weights, self.size
        hidden, later = model.hidden_size, model.num_layers - 1 - number
        reduced, waiting = weights.words + later * weights.block, number * weights.block + weights.words
        # The buffer that the gradients before these are reduced from lasts until it is these' turn.
        buffer = self.reduced_size * (weights.block if later else weights.words) * self.is_meshed
        before = self._gradients(reduced, waiting + weights.block, is_last) + buffer
        others = weights.block * (number > 0 and self.gathers)  # the next one's, gathered meanwhile
        if self.keeps_gathered:
            others = waiting if is_last else weights.total - weights.block
        gathered = size * (others + weights.block)
        per_token = bytes_kept_per_token(model, layout, Recompute.none) + bytes_of_work_per_token(model, layout)
        yield self._moment(
            gradients=before + size * hidden * model.intermediate_size // layout.tensor,
            activations=self._kept(number) + self.tokens * per_token,
            gathered=gathered,
        )
        at_end = self._kept(number) + self.tokens * (size * hidden + 8 * hidden // layout.tensor)
        yield self._moment(gradients=before + size * weights.block, activations=at_end, gathered=gathered)
        reducing = self._gradients(reduced, waiting, is_last) + self._reducing(weights.block)
        gathered = size * (others if is_last else weights.total)
        yield self._moment(gradients=reducing, activations=at_end, gathered=gathered)

    def _embedding(self, is_last: bool) -> Iterator[Memory]:
        """The embedding's gradient, which is dense, is computed, then reduced."""
        weights, size = self.weights, self.size
        others = weights.total - weights.words
        buffer = self.reduced_size * weights.block * self.is_meshed
        gathered = size * weights.words * self.keeps_gathered if is_last else size * weights.total
        yield self._moment(
            gradients=self._gradients(others, weights.words, is_last) + buffer + size * weights.words,
            activations=2 * size * self.model.hidden_size * self.tokens,
            gathered=gathered,
        )
        gradients = self._gradients(others, 0, is_last) + self._reducing(weights.words)
        yield self._moment(gradients=gradients, gathered=0 if is_last else gathered)

    def _optimizing(self) -> int:
        """What Muon needs for the largest matrix, which one rank iterates on whole: five of it, two of its square."""
        if self.optimizer is not OptimizerKind.muon:
            return 0
        model = self.model
        rows, columns = max(model.intermediate_size, model.query_width + 2 * model.key_value_width), model.hidden_size
        elements = 5 * rows * columns + 2 * min(rows, columns) ** 2
        return (4 if self.layout.device is Device.cpu else 2) * elements

    def _kept(self, num_blocks: int) -> int:
        """Bytes that so many blocks keep for backward."""
        return num_blocks * self.tokens * bytes_kept_per_token(self.model, self.layout, self.layout.recompute)


def _of_distributed_optimizer(weights: _Weights, layout: Layout) -> Memory:
    """Megatron-LM, at the loss of the only pipeline stage, or in the first of several."""
    model, size, is_only = weights.model, layout.compute.dtype.num_bytes, layout.pipeline == 1
    num_blocks = -(-model.num_layers // layout.pipeline)
    elements = num_blocks * weights.block + (1 + is_only) * weights.words
    hidden, tokens = model.hidden_size, layout.micro_batch_size * layout.sequence_length
    kept = 4 * hidden + 2 * (model.query_width + model.key_value_width + model.intermediate_size)
    if layout.recompute is Recompute.full:
        kept = hidden
    # As many micro-batches are under way in the first stage as there are stages, or, with virtual ones, some more.
    under_way: float = layout.pipeline
    if layout.virtual_stages > 1:
        under_way += (layout.pipeline - 1) / layout.virtual_stages
    kinds = {
        "parameters": 2 * elements,
        "gradients": layout.reduce.num_bytes * elements,
        "optimizer": 12 * elements // layout.num_data_ranks,
        "activations": int(under_way * num_blocks * tokens * size * kept / layout.tensor),
        "logits": (size + 8) * tokens * (model.vocab_size // layout.tensor) * is_only,  # also in fp32, and softmax
        "gathered": 0,
    }
    return _with_allowance(layout, kinds, host=kinds["optimizer"], lasting_gradients=kinds["gradients"])
