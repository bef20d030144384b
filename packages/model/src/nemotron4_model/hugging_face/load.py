"""Reading a model directory: written by this package, by transformers, or an older NVIDIA export.

Invariant: every element of a parameter is read exactly once, from safetensors only, with the shapes that config.json
implies; nothing that could run code (pickle) is opened. A rank reads only what its shards hold, and one file at a time
is mapped into memory.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nemotron4_model.config import ModelConfig
from nemotron4_model.hugging_face.config_json import from_json
from nemotron4_model.hugging_face.names import hugging_face_names, hugging_face_shapes, stored_rows
from nemotron4_model.transformer import Transformer

_FLOATS = ("F64", "F32", "F16", "BF16")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OF_VOCABULARY = ("embedding.weight", "head.weight")
_BYTES_AT_A_TIME = 16_000_000  # of the rows whose mean is taken


@dataclass(frozen=True)
class NewPieces:
    """Pieces that the tokenizer has and the stored model was not trained on."""

    first: int
    """Their first id: the number of pieces that the stored model knows."""
    end: int
    """One past their last id."""


def load_config(directory: str | Path) -> ModelConfig:
    """The shape of the model in `directory`; ValueError names the missing key or file."""
    path = Path(directory) / "config.json"
    return from_json(_read_json(path), str(path))


def load_pretrained(
    directory: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Transformer:
    """The model in `directory`, with parameters of `dtype` on `device`; raises what `check_pretrained` raises."""
    config = check_pretrained(directory)  # before allocating memory
    with torch.device("meta"):
        model = Transformer(config).to(dtype)
    model.to_empty(device=device)
    load_weights(model, directory)
    return model


def check_pretrained(directory: str | Path) -> ModelConfig:
    """The shape of the model in `directory`, whose weights are checked but not read.

    Raises ValueError if a tensor is missing, unexpected or of the wrong shape, a file is damaged, or the weights are
    not safetensors: one line with the file, the tensor or key, what was found and what was expected.
    """
    _check_not_quantised(Path(directory) / "config.json")
    config, reader = load_config(directory), StoredTensors(Path(directory))
    with torch.device("meta"):
        model = Transformer(config)
    for name, parameter in model.named_parameters():
        for stored_name, shape in hugging_face_shapes(name, parameter.shape, config):
            reader.check(stored_name, shape)
    reader.check_nothing_is_left()
    return config


def _check_not_quantised(path: Path) -> None:
    found = _read_json(path).get("quantization_config")
    if found is not None:
        raise ValueError(
            f"{path}: quantization_config ({found!r}): the weights are quantised, which only `nemotron4 generate` and "
            "`nemotron4 serve` read; give the export that was written without quantization="
        )


def weight_files(directory: str | Path) -> list[str]:
    """Names of the files that hold the weights, sorted, and of the index if there is one."""
    root = Path(directory)
    names = set(StoredTensors(root).file_of.values())
    return sorted({*names, _INDEX} if (root / _INDEX).is_file() else names)


def load_weights(model: Transformer, directory: str | Path, new: NewPieces | None = None) -> None:
    """Fill every parameter of `model`, sharded or not, in place, from a directory that `check_pretrained` accepts.

    The model must have storage and the directory's shape, but may have more rows of vocabulary. Values are converted to
    the parameters' dtype. Rows of `new` pieces, and rows that the directory does not have, get the mean of the rows
    that the stored model knows (of all its rows without `new`). Not a collective: each rank reads its own parts.
    """
    from torch.distributed.tensor import DTensor  # imported here: it takes a second, and the engine needs none of it

    from nemotron4_model.shards import local_indices

    reader, stored = StoredTensors(Path(directory)), load_config(directory)
    parts: dict[str, list[_Part]] = defaultdict(list)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert not parameter.is_meta, f"{name} has no storage: call model.to_empty(device=...) first"
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            rows, *columns = local_indices(parameter)
            assert local.shape == torch.Size([len(rows), *map(len, columns)])
            if name in _OF_VOCABULARY:
                rows = _fill_new_rows(local, name, rows, columns[0], reader, stored.vocab_size, new)
            for part in _parts(name, local, rows, columns, stored):
                parts[reader.file_of[part.name]].append(part)
        for file_name in sorted(parts):
            _copy(reader.open(file_name), parts[file_name])


def _fill_new_rows(
    local: Tensor,
    name: str,
    rows: Tensor,
    columns: Tensor,
    reader: "StoredTensors",
    vocab_size: int,
    new: NewPieces | None,
) -> Tensor:
    """Give the rows of `local` that cannot be read their mean; returns `rows` with those as -1."""
    known = vocab_size if new is None else new.first
    is_new = rows >= vocab_size
    if new is not None:
        is_new |= (rows >= new.first) & (rows < new.end)
    if is_new.any():
        (stored_name,) = hugging_face_names(name)
        mean_D = _mean_row(reader, stored_name, known)[columns]
        local[is_new.to(local.device)] = mean_D.to(local.device, local.dtype)
    return rows.masked_fill(is_new, -1)


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of a stored tensor, and where they belong."""

    name: str
    first_row: int
    columns: slice | None
    """None for vectors."""
    target: Tensor
    """A view of the parameter."""


def _parts(name: str, local: Tensor, rows: Tensor, columns: list[Tensor], config: ModelConfig) -> Iterator[_Part]:
    """What `local` holds: `rows` and `columns` of our parameter `name`, but for rows of -1."""
    if not local.numel():
        return
    wanted = None
    if columns:
        wanted = slice(int(columns[0][0]), int(columns[0][-1]) + 1)
        assert wanted.stop - wanted.start == len(columns[0]), "columns are split into contiguous parts"
    names = hugging_face_names(name)
    which, stored = stored_rows(name, rows, config)
    breaks = (rows.diff() != 1) | (which.diff() != 0) | (stored.diff() != 1)
    starts = [0, *(breaks.nonzero().flatten() + 1).tolist(), len(rows)]
    for start, end in pairwise(starts):
        if rows[start] >= 0:
            yield _Part(names[which[start]], int(stored[start]), wanted, local[start:end])


def _copy(file: Any, parts: list[_Part]) -> None:
    for part in parts:
        rows = slice(part.first_row, part.first_row + len(part.target))
        tensor = file.get_slice(part.name)
        part.target.copy_(tensor[rows] if part.columns is None else tensor[rows, part.columns])


def _mean_row(reader: "StoredTensors", name: str, num_rows: int) -> Tensor:
    """The mean of the first rows of a stored matrix, in fp64."""
    tensor = reader.open(reader.file_of[name]).get_slice(name)
    width = tensor.get_shape()[1]
    total_D = torch.zeros(width, dtype=torch.float64)
    step = max(1, _BYTES_AT_A_TIME // (8 * width))
    for first in range(0, num_rows, step):
        total_D += tensor[first : min(first + step, num_rows)].double().sum(0)
    return total_D / num_rows


class StoredTensors:
    """The tensors of a directory by name. Check each, then that there are no others, then read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._reading: tuple[str, Any] | None = None
        self._open: dict[str, Any] = {}
        self.file_of = self._locate()
        self._unchecked = set(self.file_of)

    def check(self, name: str, shape: Sequence[int], dtypes: Sequence[str] = _FLOATS) -> None:
        """Raise ValueError unless the tensor exists, has this shape and contains floats (or one of `dtypes`)."""
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
        if dtype not in dtypes:
            raise ValueError(
                f"{self.root / file_name}: tensor {name!r} is stored as {dtype}; expected one of {', '.join(dtypes)}; "
                "weights quantised by other programs are not supported"
            )

    def check_nothing_is_left(self) -> None:
        """Raise ValueError if the directory has a tensor that was not checked."""
        held = set().union(*(self._file(file_name).keys() for file_name in set(self.file_of.values())))
        # Older exports store the rotary frequencies, which we compute.
        unknown = self._unchecked | (held - set(self.file_of))
        extra = sorted(name for name in unknown if not name.endswith("rotary_emb.inv_freq"))
        if extra:
            raise ValueError(f"{self.root}: tensor {extra[0]!r} is not part of this model ({len(extra)} such tensors)")

    def read_rows(self, name: str, first: int, target: Tensor, config: ModelConfig) -> None:
        """Fill `target` with rows of our parameter `name`, from row `first` on, converting values to its dtype.

        `name` may also be that of values stored per row. One file at a time is open.
        """
        rows = torch.arange(first, first + len(target), device="cpu")
        columns = [torch.arange(size, device="cpu") for size in target.shape[1:]]
        for part in _parts(name, target, rows, columns, config):
            file_name = self.file_of[part.name]
            if self._reading is None or self._reading[0] != file_name:
                self._reading = None
                self._reading = (file_name, self.open(file_name))
            _copy(self._reading[1], [part])

    def open(self, name: str) -> Any:
        """A file to read from. Its pages stay in memory until it is released: hold one at a time."""
        try:
            return safe_open(self.root / name, framework="pt")
        except FileNotFoundError as error:
            raise ValueError(f"{self.root / name}: the file is missing; {_INDEX} names it") from error
        except SafetensorError as error:
            raise ValueError(
                f"{self.root / name}: damaged or not a safetensors file ({error}); copy it again"
            ) from error

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
        """A file to look into: kept open, because its tensors are not read."""
        if name not in self._open:
            self._open[name] = self.open(name)
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
