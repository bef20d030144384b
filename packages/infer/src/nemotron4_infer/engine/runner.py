"""The StepRunner for weights that are loaded: slabs on a CPU, pages on a GPU."""

from nemotron4_infer.engine.batch import StepRunner
from nemotron4_infer.engine.huge_pages import use_huge_pages
from nemotron4_infer.engine.step import PAGE_TOKENS, CpuRunner
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.weights.engine_weights import EngineWeights

_MIN_HUGE_BYTES = 1 << 24
"""Smaller weights stay in the processor's caches, where pages matter little."""


def make_runner(weights: EngineWeights, config: EngineConfig) -> StepRunner:
    """Its pool has engine.cache_tokens, by default as many as can be used at once; on a GPU no more than fit."""
    if weights.device.type == "cuda":
        from nemotron4_infer.engine.build_paged import paged_runner  # imported here: it takes a second

        return paged_runner(weights, config)
    pages_of_one = -(-weights.config.max_sequence_length // PAGE_TOKENS)
    tokens = config.cache_tokens
    num_pages = config.max_running * pages_of_one if tokens is None else tokens // PAGE_TOKENS
    step_tokens = config.most_step_tokens(PAGE_TOKENS, on_gpu=False)
    runner = CpuRunner(weights, num_pages, step_tokens=step_tokens)
    if sum(each.num_bytes for each in weights.linears) >= _MIN_HUGE_BYTES:
        use_huge_pages()
    return runner
