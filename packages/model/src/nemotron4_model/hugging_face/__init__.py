"""The model directory that other programs read as NemotronForCausalLM: config.json, safetensors, tokenizer files."""

from nemotron4_model.hugging_face.load import (
    NewPieces,
    StoredTensors,
    check_pretrained,
    load_config,
    load_pretrained,
    load_weights,
    weight_files,
)
from nemotron4_model.hugging_face.save import save_pretrained, write_pretrained

__all__ = [
    "NewPieces",
    "StoredTensors",
    "check_pretrained",
    "load_config",
    "load_pretrained",
    "load_weights",
    "save_pretrained",
    "weight_files",
    "write_pretrained",
]
