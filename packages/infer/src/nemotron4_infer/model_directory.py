"""Loading a model directory: the Hugging Face layout that `nemotron4 export` and training write.

Invariant: a missing file is reported before anything large is read.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer
from nemotron4_model import DType, Transformer, load_pretrained


@dataclass(kw_only=True)
class LoadedModel:
    """Weights and tokenizer of one model directory."""

    model: Transformer
    """In eval mode, on `device`."""
    tokenizer: Tokenizer
    """The tokenizer the model was trained with."""
    device: torch.device
    """A GPU if there is one."""


def load_model_directory(directory: str, dtype: DType | None) -> LoadedModel:
    """Load weights and tokenizer; `dtype` None means bf16 on a GPU, fp32 on a CPU.

    ValueError, one line naming `model_dir`, if the directory does not contain a model."""
    path = Path(directory)
    check_model_directory(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (DType.fp32 if device.type == "cpu" else DType.bf16)
    model = load_pretrained(path, dtype=dtype.torch_dtype, device=str(device))
    tokenizer = load_tokenizer(path, model.config.vocab_size)
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, device=device)


def load_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model directory; ValueError if it has more pieces than the weights have rows."""
    tokenizer = Tokenizer(path / "tokenizer.model")
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"model_dir ({path}): tokenizer.model has {tokenizer.vocab_size} pieces, but the weights have only "
            f"{vocab_size}; the directory mixes two models"
        )
    return tokenizer


def check_model_directory(path: Path) -> None:
    """Raise ValueError unless the directory looks like a model directory; `load_pretrained` checks the weights."""
    way_out = "give the export of a run, e.g. runs/demo/latest/export"
    require(path.is_dir(), "model_dir", path, f"is not a directory; {way_out}")
    contents = "a model directory contains config.json, *.safetensors and tokenizer.model"
    for name in ("config.json", "tokenizer.model"):
        require((path / name).is_file(), "model_dir", path, f"has no {name}; {contents}; {way_out}")
