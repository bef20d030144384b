"""Names and layouts of weights: ours (one fused qkv) and those of NemotronForCausalLM (q, k and v separate).

Invariant: `to_hugging_face` and `stored_rows` describe the same layout.

Shapes: K key/value heads, G query heads per key/value head, H head width, D hidden.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nemotron4_model.config import ModelConfig

_TOP = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_BLOCK = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.out": "self_attn.o_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
_QKV = tuple(f"self_attn.{letter}_proj" for letter in "qkv")


def hugging_face_names(name: str) -> tuple[str, ...]:
    """The names under which our parameter `name` is stored: one, or those of q, k and v."""
    module, _, kind = name.rpartition(".")
    if module in _TOP:
        return (f"{_TOP[module]}.{kind}",)
    _, layer, part = module.split(".", 2)
    prefix = f"model.layers.{layer}."
    if part == "attention.qkv":
        return tuple(f"{prefix}{tail}.{kind}" for tail in _QKV)
    return (f"{prefix}{_BLOCK[part]}.{kind}",)


def to_hugging_face(name: str, tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The (name, tensor) pairs to store for our parameter, or for one with a value per row, such as a scale."""
    names = hugging_face_names(name)
    if len(names) == 1:
        yield names[0], tensor
        return
    group = config.num_queries_per_key_value_head
    rows_KGHD = tensor.view(config.num_key_value_heads, group + 2, config.attention_head_dim, tensor.shape[1])
    parts = (rows_KGHD[:, :group], rows_KGHD[:, group], rows_KGHD[:, group + 1])
    for part_name, part in zip(names, parts, strict=True):
        yield part_name, part.reshape(-1, tensor.shape[1])


def stored_rows(name: str, rows: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Where rows of our parameter are stored: for each, which of its `hugging_face_names`, and the row there."""
    if len(hugging_face_names(name)) == 1:
        return torch.zeros_like(rows), rows
    group, width = config.num_queries_per_key_value_head, config.attention_head_dim
    block, within = rows // width, rows % width
    kv_head, member = block // (group + 2), block % (group + 2)
    head = torch.where(member < group, kv_head * group + member, kv_head)
    return (member - group + 1).clamp(min=0), head * width + within


def hugging_face_shapes(name: str, shape: torch.Size, config: ModelConfig) -> Iterator[tuple[str, torch.Size]]:
    """The (name, shape) pairs that must be stored for our parameter."""
    for stored_name, part in to_hugging_face(name, torch.empty(shape, device="meta"), config):
        yield stored_name, part.shape
