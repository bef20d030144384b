"""Models of other libraries that compute the same as ours."""

from typing import Any

import torch

from nemotron4_model import Transformer
from nemotron4_model.hugging_face.config_json import to_json
from nemotron4_model.hugging_face.names import to_hugging_face


def nemotron_of(model: Transformer) -> Any:
    """transformers' NemotronForCausalLM with a copy of a model's weights, in fp32."""
    import transformers  # imported here: it takes seconds, and other contestants do without

    settings = to_json(model.config, torch.float32)
    settings.pop("torch_dtype")
    theirs = transformers.NemotronForCausalLM(transformers.NemotronConfig(**settings))
    named = model.named_parameters()
    theirs.load_state_dict(dict(pair for name, p in named for pair in to_hugging_face(name, p.detach(), model.config)))
    return theirs
