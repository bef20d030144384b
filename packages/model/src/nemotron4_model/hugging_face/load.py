"""Reading a model directory: written by this package, by transformers, or an older NVIDIA export.

Invariant: every parameter is read exactly once, from safetensors only, with the shape that config.json implies; nothing
that could run code (pickle) is opened.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nemotron4_model.config import ModelConfig
from nemotron4_model.hugging_face.config_json import from_json
from nemotron4_model.hugging_face.names import fuse_qkv, hugging_face_shapes
from nemotron4_model.transformer import Transformer

_FLOATS = ("F64", "F32", "F16", "BF16")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def load_config(directory: str | Path) -> ModelConfig:
    """The shape of the model in `directory`; ValueError names the missing key or file."""
    path = Path(directory) / "config.json"
    return from_json(_read_json(path), str(path))


def load_pretrained(
    directory: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Transformer:
    """The model in `directory`, with parameters of `dtype` on `device`.

    Raises ValueError if a tensor is missing, unexpected or of the wrong shape, a file is damaged, or the weights are
    not safetensors: one line with the file, the tensor or key, what was found and what was expected.
    """
    root = Path(directory)
    config = load_config(root)
    with torch.device("meta"):
        model = Transformer(config).to(dtype)
    reader = _Reader(root)
    stored = {name: list(hugging_face_shapes(name, p.shape, config)) for name, p in model.named_parameters()}
    for wanted in stored.values():  # check everything before allocating memory
        for stored_name, shape in wanted:
            reader.check(stored_name, shape)
    reader.check_nothing_is_left()
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parts = [reader.read(stored_name) for stored_name, _ in stored[name]]
            parameter.copy_(parts[0] if len(parts) == 1 else fuse_qkv(parts[0], parts[1], parts[2], config))
    return model


class _Reader:
    """The tensors of a directory by name. Check each, then that there are no others, then read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, Any] = {}
        self.file_of = self._locate()
        self._unchecked = set(self.file_of)

    def check(self, name: str, shape: torch.Size) -> None:
        """Raise ValueError unless the tensor exists, has this shape and contains floats."""
        if name not in self.file_of:
            raise ValueError(f"{self.root}: tensor {name!r} is missing; config.json implies one of shape {list(shape)}")
        self._unchecked.discard(name)
        file_name = self.file_of[name]
        file = self._file(file_name)
        if name not in file.keys():  # noqa: SIM118  (not a dict)
            raise ValueError(f"{self.root / file_name}: tensor {name!r} is missing; {_INDEX} says it is here")
        found = list(file.get_slice(name).get_shape())
        if found != list(shape):
            raise ValueError(
                f"{self.root / file_name}: tensor {name!r} has shape {found}; config.json implies {list(shape)}"
            )
        dtype = file.get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise ValueError(
                f"{self.root / file_name}: tensor {name!r} is stored as {dtype}; expected one of {', '.join(_FLOATS)}; "
                "quantised weights are not supported"
            )

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file(self.file_of[name]).get_tensor(name)
        return tensor

    def check_nothing_is_left(self) -> None:
        held = set().union(*(self._file(file_name).keys() for file_name in set(self.file_of.values())))
        # Older exports store the rotary frequencies, which we compute.
        unknown = self._unchecked | (held - set(self.file_of))
        extra = sorted(name for name in unknown if not name.endswith("rotary_emb.inv_freq"))
        if extra:
            raise ValueError(f"{self.root}: tensor {extra[0]!r} is not part of this model ({len(extra)} such tensors)")

    def _locate(self) -> dict[str, str]:
        if (self.root / _INDEX).is_file():
            index = _read_json(self.root / _INDEX)
            if not isinstance(index.get("weight_map"), dict):
                raise ValueError(f"{self.root / _INDEX}: key 'weight_map' is missing")
            for file_name in map(str, index["weight_map"].values()):
                if Path(file_name).name != file_name or not file_name.endswith(".safetensors"):
                    raise ValueError(f"{self.root / _INDEX}: {file_name!r} is not a safetensors file beside it")
            return dict(index["weight_map"])
        if (self.root / _SINGLE).is_file():
            return dict.fromkeys(self._file(_SINGLE).keys(), _SINGLE)
        others = sorted(p.name for p in self.root.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if others:
            raise ValueError(
                f"{self.root}: {others[0]} is a pickle, which can run code and is never opened; "
                "convert the weights to safetensors"
            )
        raise ValueError(f"{self.root}: has neither {_SINGLE} nor {_INDEX}; this is not a model directory")

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.root / name, framework="pt")
            except FileNotFoundError as error:
                raise ValueError(f"{self.root / name}: the file is missing; {_INDEX} names it") from error
            except SafetensorError as error:
                raise ValueError(
                    f"{self.root / name}: damaged or not a safetensors file ({error}); copy it again"
                ) from error
        return self._open[name]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file is missing; {path.parent} is not a model directory") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must contain a JSON object; copy it again")
    return content
