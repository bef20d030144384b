"""The model directory that other programs read as NemotronForCausalLM: config.json, safetensors, tokenizer files."""

from nemotron4_model.hugging_face.load import load_config, load_pretrained
from nemotron4_model.hugging_face.save import save_pretrained, write_pretrained

__all__ = ["load_config", "load_pretrained", "save_pretrained", "write_pretrained"]
