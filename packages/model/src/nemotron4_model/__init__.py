"""The Nemotron-4 model: architecture, presets, initialisation, parallel recipe, Hugging Face mapping.

Names that need torch are imported on first use, so that `import nemotron4_model` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_model.dtype import DType

if TYPE_CHECKING:
    from nemotron4_model.hugging_face import load_config, load_pretrained, save_pretrained, write_pretrained
    from nemotron4_model.initialisation import initialise
    from nemotron4_model.loss import linear_cross_entropy
    from nemotron4_model.parallel import begin_micro_batch, global_grad_norm_and_clip, grad_norms, parallelise
    from nemotron4_model.transformer import KeyValueCache, Transformer

_LAZY = {
    "KeyValueCache": "nemotron4_model.transformer",
    "Transformer": "nemotron4_model.transformer",
    "begin_micro_batch": "nemotron4_model.parallel",
    "global_grad_norm_and_clip": "nemotron4_model.parallel",
    "grad_norms": "nemotron4_model.parallel",
    "initialise": "nemotron4_model.initialisation",
    "linear_cross_entropy": "nemotron4_model.loss",
    "load_config": "nemotron4_model.hugging_face",
    "load_pretrained": "nemotron4_model.hugging_face",
    "parallelise": "nemotron4_model.parallel",
    "save_pretrained": "nemotron4_model.hugging_face",
    "write_pretrained": "nemotron4_model.hugging_face",
}

__all__ = [
    "DType",
    "KeyValueCache",
    "ModelConfig",
    "Recompute",
    "Transformer",
    "begin_micro_batch",
    "global_grad_norm_and_clip",
    "grad_norms",
    "initialise",
    "linear_cross_entropy",
    "load_config",
    "load_pretrained",
    "parallelise",
    "save_pretrained",
    "write_pretrained",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
