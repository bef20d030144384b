"""Generation from a Nemotron-4 model directory: key/value cache, sampling, streaming.

Names that need torch are imported on first use, so that `import nemotron4_infer` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemotron4_infer.generate_job import GenerateJob
from nemotron4_infer.sampling import SamplingConfig

if TYPE_CHECKING:
    from nemotron4_infer.cache import KVCache
    from nemotron4_infer.generation import StopReason, generate
    from nemotron4_infer.model_directory import LoadedModel, load_model_directory
    from nemotron4_infer.sampling.distribution import next_token_distribution
    from nemotron4_infer.streaming import run_generate

_LAZY = {
    "KVCache": "nemotron4_infer.cache",
    "LoadedModel": "nemotron4_infer.model_directory",
    "StopReason": "nemotron4_infer.generation",
    "generate": "nemotron4_infer.generation",
    "load_model_directory": "nemotron4_infer.model_directory",
    "next_token_distribution": "nemotron4_infer.sampling.distribution",
    "run_generate": "nemotron4_infer.streaming",
}

__all__ = [
    "GenerateJob",
    "KVCache",
    "LoadedModel",
    "SamplingConfig",
    "StopReason",
    "generate",
    "load_model_directory",
    "next_token_distribution",
    "run_generate",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
