"""What a block keeps of each token of a micro-batch for its backward pass, on one rank, in bytes.

Invariant: for uncompiled fp32 on one device it is ModelConfig.activation_bytes_per_token, whose docstring names the
tensors. Here are the other formats, the tensor axis, compiled blocks and short sequences on a CPU.
"""

from __future__ import annotations

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_train.estimates.layout import Layout
from nemotron4_train.topology import Device

MAX_BLOCKED_TOKENS = 1_024
"""As kernels/attention.py, which imports torch."""
BLOCK_QUERIES = {4: 32, 2: 64}
"""The same, by bytes of an element: positions of a block of queries."""


def bytes_kept_per_token(model: ModelConfig, layout: Layout, recompute: Recompute) -> int:
    """Bytes of a token that a block keeps.

    Uncompiled, a norm keeps its input in the fp32 that it computes in. The tensor axis divides everything but the
    inputs of the two products that are split by columns, which are gathered for them, and, selectively, the output of
    attention's last product, which is kept before it is summed over ranks.
    """
    size, hidden = layout.compute.dtype.num_bytes, model.hidden_size
    if recompute is Recompute.full:
        return size * hidden // layout.tensor
    attention = size * (2 * model.query_width + 2 * model.key_value_width)
    weights = _attention_weights(model, layout)
    if recompute is Recompute.selective:
        again = size * model.query_width if weights else 0  # attention that is computed again keeps no output
        return (size * (hidden + model.intermediate_size) + attention - again) // layout.tensor + size * hidden
    norm_inputs = 2 * hidden * (size if layout.compile else 4)
    divided = norm_inputs + attention + weights + 2 * size * model.intermediate_size
    return divided // layout.tensor + 2 * size * hidden


def bytes_of_work_per_token(model: ModelConfig, layout: Layout) -> int:
    """Bytes of a token that the backward pass of a block's MLP, which needs most, takes beside what was kept."""
    size, hidden, tensor = layout.compute.dtype.num_bytes, model.hidden_size, layout.tensor
    gathered = size * hidden * (tensor > 1)
    # Gathered along the sequence, the gradient of several sequences is copied once more.
    twice = gathered * (1 + (layout.micro_batch_size > 1))
    return size * hidden // tensor + max(gathered + size * model.intermediate_size // tensor, twice)


def _attention_weights(model: ModelConfig, layout: Layout) -> int:
    """Bytes of a token's attention weights: half a square, in blocks of queries, for short sequences on a CPU."""
    length, size = layout.sequence_length, layout.compute.dtype.num_bytes
    if layout.device is not Device.cpu or length > MAX_BLOCKED_TOKENS:
        return 0
    return size * model.num_attention_heads * (length + min(length, BLOCK_QUERIES[size])) // 2
