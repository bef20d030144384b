"""A runner over pages for weights that are loaded: how many pages, which attention, what is compiled."""

import torch

from nemotron4_common.rules import require
from nemotron4_infer.engine.paged import CudaRunner
from nemotron4_infer.engine.paged_attention import KERNEL_PAGE_TOKENS, Gathered
from nemotron4_infer.engine.pointwise import EAGER, compiled
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.weights.engine_weights import EngineWeights

_WORKSPACE_BYTES = 3 << 30
"""Left free on a GPU for activations, logits and the memory of graphs: an estimate."""


def num_pages(weights: EngineWeights, config: EngineConfig, page_tokens: int, tensor: int = 1) -> int:
    """Pages for engine.cache_tokens, or for as many tokens as may be used and fit beside the weights.

    With tensor parallelism a rank holds 1 / `tensor` of the heads. ValueError if no page fits.
    """
    model = weights.config
    wanted = config.cache_tokens or config.max_running * model.max_sequence_length
    pages = -(-wanted // page_tokens)
    if weights.device.type != "cuda":
        return pages
    torch.cuda.empty_cache()  # what loading took and gave back
    free, _ = torch.cuda.mem_get_info(weights.device)
    page_bytes = page_tokens * model.key_value_bytes_per_token(weights.dtype.itemsize) // tensor
    # What was planned before loading counts; only what cannot be is refused here. One more page is for scratch.
    fit = (free - (_WORKSPACE_BYTES if config.cache_tokens is None else 0)) // page_bytes - 1
    rule = f"does not fit: beside the weights there is room for {max(0, fit * page_tokens)} tokens; lower it"
    require(config.cache_tokens is None or pages <= fit, "engine.cache_tokens", config.cache_tokens, rule)
    rule = f"leaves no room for a page of {page_tokens} tokens; set engine.quantization or raise engine.tensor"
    require(fit >= 1, "model_dir", f"{free / 1e9:.1f} GB free beside the weights", rule)
    return min(pages, fit)


def paged_runner(weights: EngineWeights, config: EngineConfig, pages: int | None = None) -> CudaRunner:
    """The runner; `pages` None takes what `num_pages` says."""
    on_cuda = weights.device.type == "cuda"
    page_tokens = KERNEL_PAGE_TOKENS if on_cuda else 64
    return CudaRunner(
        weights,
        num_pages(weights, config, page_tokens) if pages is None else pages,
        config.max_running,
        page_tokens=page_tokens,
        attention=None if on_cuda else Gathered(),
        pointwise=compiled() if on_cuda and config.compile else EAGER,
        equal_bits=config.equal_bits,
    )
