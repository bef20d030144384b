"""config.json of NemotronForCausalLM, to and from ModelConfig.

Invariant: the model computes what the file says; a setting that this model does not have is refused, never dropped.
Source: transformers' `NemotronConfig` (its current keys and those of version 4.44), and older exports of NVIDIA's
models, which use the keys rope_percent or rope_percentage, kv_channels and layer_norm_eps.
"""

import math
from typing import Any

import torch

from nemotron4_model.config import ModelConfig

PAD_ID, BOS_ID, EOS_ID = 0, 2, 3
QUANTISED = {"model_type": "nemotron_quantized", "architectures": ["NemotronQuantizedForCausalLM"]}
"""Of a directory with quantised weights, beside its quantization_config. transformers skips formats that it does not
know, and would take int8 numbers for the weights; a type that it does not know it refuses."""

_NUMBERS = (int, float)
_FIXED = {
    "model_type": "nemotron",
    "hidden_act": "relu2",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


def to_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json, with the rotary settings in both the current and the older place."""
    dtype_name = str(dtype).removeprefix("torch.")
    return {
        **_FIXED,
        "architectures": ["NemotronForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": BOS_ID,
        "dtype": dtype_name,
        "eos_token_id": EOS_ID,
        "head_dim": config.attention_head_dim,
        "hidden_size": config.hidden_size,
        "initializer_range": config.init_std,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_sequence_length,
        "norm_eps": config.norm_eps,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": PAD_ID,
        "partial_rotary_factor": config.rotary_fraction,
        "rope_parameters": {
            "partial_rotary_factor": config.rotary_fraction,
            "rope_theta": config.rope_theta,
            "rope_type": "default",
        },
        "rope_theta": config.rope_theta,
        "torch_dtype": dtype_name,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def from_json(content: dict[str, Any], source: str) -> ModelConfig:
    """ModelConfig of a parsed config.json; `source` names the file in ValueErrors."""
    for key, wanted in _FIXED.items():
        found = content.get(key, wanted)
        if key == "model_type" and found == QUANTISED[key] and "quantization_config" in content:
            continue
        if found != wanted:
            raise ValueError(f"{source}: {key} ({found!r}): must be {wanted!r}; this is not a Nemotron model")
    nested = [_first(content, source, key, default={}, kinds=(dict,)) for key in ("rope_parameters", "rope_scaling")]
    rope = {**content, **nested[0], **nested[1]}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"{source}: rope_type ({rope_type!r}): must be 'default'; scaled positions are not supported")
    heads = _first(content, source, "num_attention_heads")
    return ModelConfig(
        vocab_size=_first(content, source, "vocab_size"),
        hidden_size=_first(content, source, "hidden_size"),
        intermediate_size=_first(content, source, "intermediate_size"),
        num_layers=_first(content, source, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_first(content, source, "num_key_value_heads", default=heads),
        head_dim=_first(content, source, "head_dim", "kv_channels", default=0) or None,
        rotary_fraction=_first(
            rope, source, "partial_rotary_factor", "rope_percent", "rope_percentage", default=0.5, kinds=_NUMBERS
        ),
        rope_theta=float(_first(rope, source, "rope_theta", default=10_000.0, kinds=_NUMBERS)),
        norm_eps=_first(content, source, "norm_eps", "layer_norm_eps", default=1e-5, kinds=_NUMBERS),
        init_std=_first(content, source, "initializer_range", default=0.0134, kinds=_NUMBERS),
        max_sequence_length=_first(content, source, "max_position_embeddings", default=4_096),
    )


def _first(
    content: dict[str, Any], source: str, *keys: str, default: Any = None, kinds: tuple[type, ...] = (int,)
) -> Any:
    for key in keys:
        if (value := content.get(key)) is not None:
            if type(value) not in kinds:
                raise ValueError(f"{source}: {key} ({value!r}): must be {' or '.join(kind.__name__ for kind in kinds)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{source}: {key} ({value!r}): must be a finite number")
            return value
    if default is None:
        raise ValueError(f"{source}: key {keys[0]!r} is missing")
    return default
