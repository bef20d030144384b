"""The Nemotron-4 model: architecture, presets, initialisation, parallel recipe, Hugging Face mapping.

Names that need torch are imported on first use, so that `import nemotron4_model` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemotron4_model.config import ModelConfig

if TYPE_CHECKING:
    from nemotron4_model.initialisation import initialise
    from nemotron4_model.loss import linear_cross_entropy
    from nemotron4_model.transformer import KeyValueCache, Transformer

_LAZY = {
    "KeyValueCache": "nemotron4_model.transformer",
    "Transformer": "nemotron4_model.transformer",
    "initialise": "nemotron4_model.initialisation",
    "linear_cross_entropy": "nemotron4_model.loss",
}

__all__ = ["KeyValueCache", "ModelConfig", "Transformer", "initialise", "linear_cross_entropy"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
