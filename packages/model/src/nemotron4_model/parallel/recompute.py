"""What a block recomputes in backward instead of keeping: nothing, everything, or what is large and cheap.

Selective recomputation keeps the outputs of matrix products and of the fused attention kernel, and recomputes norms,
rotation, squared ReLU and residual sums. It also recomputes blocked attention (kernels/attention.py), which short
sequences use on a CPU, because that keeps T x T / 2 weights for each head.

Invariant: the same kernels run on the same values in forward and in backward, so losses and gradients equal those of
`Recompute.none`, in one process bit for bit.
Source: "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198) section 5, which recomputes
attention; with a fused kernel that never holds the scores (arXiv 2205.14135) there is no reason to.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # registers its operator
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from nemotron4_model.config import Recompute

_aten = torch.ops.aten
# Matrix products: plain, in float8, and by oneDNN (kernels/linear.py).
_PRODUCTS = {_aten.mm.default, _aten._scaled_mm.default, _aten.convolution.default}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.torch_attn._varlen_attn.default,
}
_PRODUCTS_OF_A_BLOCK = 4  # attention.qkv, attention.out, mlp.up, mlp.down


def recomputed(forward: Callable[..., Tensor], recompute: Recompute) -> Callable[..., Tensor]:
    """A block's forward, keeping for backward only what `recompute` specifies."""
    if recompute is Recompute.none:
        return forward
    if recompute is Recompute.full:
        return partial(checkpoint, forward, use_reentrant=False)
    return partial(checkpoint, forward, use_reentrant=False, context_fn=_selective_contexts)


def _selective_contexts() -> Any:
    """The contexts of one pass through a block: its forward, and the recomputation."""
    seen: Counter[bool] = Counter()

    def policy(context: SelectiveCheckpointContext, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if op in _PRODUCTS:
            seen[context.is_recompute] += 1
            # Nothing in backward reads the output of the last product, which goes into the residual sum.
            is_last = seen[context.is_recompute] == _PRODUCTS_OF_A_BLOCK
            return CheckpointPolicy.MUST_RECOMPUTE if is_last else CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.MUST_SAVE if op in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE

    # squared_relu_ overwrites the kept output of mlp.up by relu(x). That is harmless: relu of it is the same again.
    return create_selective_checkpoint_contexts(policy, allow_cache_entry_mutation=True)
