"""An engine from a model directory, for every command that generates."""

from nemotron4_infer.engine.config import EngineConfig
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.model_directory import load_model_directory
from nemotron4_model import DType


def build_engine(model_dir: str, dtype: DType | None, config: EngineConfig) -> Engine:
    """Load a model directory. ValueError, one line, if it does not contain a model or does not fit."""
    loaded = load_model_directory(model_dir, dtype)
    return Engine(loaded.model, loaded.tokenizer, config)
