"""Writing the model directory.

Invariant: the directory appears complete or not at all, because files are written beside it, synced and renamed; memory
holds one weight file at a time.
Source: the layout of Hugging Face model repositories (safetensors with an index when sharded).
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nemotron4_common.staging import sync
from nemotron4_model.config import ModelConfig
from nemotron4_model.hugging_face.config_json import BOS_ID, EOS_ID, PAD_ID, to_json
from nemotron4_model.hugging_face.names import to_hugging_face
from nemotron4_model.hugging_face.tokenizer_json import tokenizer_files
from nemotron4_model.transformer import Transformer

MAX_SHARD_BYTES = 5_000_000_000

Encode = Callable[[str, Tensor], Mapping[str, Tensor] | None]
"""From our name and the whole tensor, the tensors to store instead of a weight, by kind; None stores it as it is."""


def save_pretrained(
    model: Transformer,
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    tokenizer_model: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write `model` as write_pretrained does, in its own dtype unless another is given.

    Every parameter must be whole: gather sharded ones first.
    """
    from torch.distributed.tensor import DTensor  # imported here: it takes a second

    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters()), "gather the parameters first"
    named = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    write_pretrained(
        model.config,
        named,
        directory,
        dtype=dtype or model.head.weight.dtype,
        tokenizer_model=tokenizer_model,
        max_shard_bytes=max_shard_bytes,
        extra_files=extra_files,
    )


def write_pretrained(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    directory: str | Path,
    *,
    dtype: torch.dtype,
    tokenizer_model: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra_files: Mapping[str, str] | None = None,
    encode: Encode = lambda name, tensor: None,
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """Write a model directory from pairs of our parameter name and the whole tensor, consumed one by one.

    Tensors must stay as they are until this returns, as those of a file are held without a copy where that is possible.
    Weights are stored in `dtype`. `tokenizer_model` is a SentencePiece file to include; `extra_files` holds texts by
    file name (such as provenance.json). `encode` stores weights in another form, which keys of `extra_config` in
    config.json tell. Raises ValueError when `directory` is not empty, or a parameter is missing, unknown or of the
    wrong shape.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: exists and is not empty; remove it or export to another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.staged-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        _write_weights(staged, config, _encoded(_checked(config, tensors), encode, dtype), max_shard_bytes)
        _write_json(staged / "config.json", {**to_json(config, dtype), **(extra_config or {})})
        ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
        _write_json(staged / "generation_config.json", ids)
        if tokenizer_model is not None:
            shutil.copyfile(tokenizer_model, staged / "tokenizer.model")
            for name, content in tokenizer_files(Path(tokenizer_model), config).items():
                _write_json(staged / name, content)
        for name, text in (extra_files or {}).items():
            (staged / name).write_text(text, encoding="utf-8")
        for path in (*staged.iterdir(), staged):
            sync(path)
        staged.replace(target)
        sync(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_weights(
    staged: Path, config: ModelConfig, tensors: Iterable[tuple[str, Tensor, torch.dtype]], max_shard_bytes: int
) -> None:
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    pending_bytes = total_bytes = 0
    for name, tensor, dtype in tensors:
        for stored_name, part in to_hugging_face(name, tensor, config):
            num_bytes = part.numel() * dtype.itemsize
            if pending and pending_bytes + num_bytes > max_shard_bytes:
                shards.append(_flush(staged, len(shards), pending))
                pending, pending_bytes = {}, 0
            stored = part.to("cpu", dtype).contiguous()
            # Safetensors refuses tensors that share memory, as k and v of one key/value head do.
            pending[stored_name] = stored if stored.untyped_storage().nbytes() == stored.nbytes else stored.clone()
            pending_bytes += num_bytes
            total_bytes += num_bytes
        del tensor, part, stored  # or they would stay in memory beside the next
    shards.append(_flush(staged, len(shards), pending))
    if len(shards) == 1:
        (staged / _part_name(0)).rename(staged / "model.safetensors")
        return
    weight_map = {}
    for number, stored_names in enumerate(shards):
        file_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (staged / _part_name(number)).rename(staged / file_name)
        weight_map.update(dict.fromkeys(stored_names, file_name))
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    _write_json(staged / "model.safetensors.index.json", index)


def _encoded(
    tensors: Iterable[tuple[str, Tensor]], encode: Encode, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """What to store, and as which dtype."""
    for name, tensor in tensors:
        if (parts := encode(name, tensor)) is None:
            yield name, tensor, dtype
        else:
            for kind, part in parts.items():
                yield name.removesuffix("weight") + kind, part, part.dtype
            del part
        del tensor, parts


def _checked(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    with torch.device("meta"):
        expected = {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}
    for name, tensor in tensors:
        if name not in expected:
            raise ValueError(f"parameter {name!r} is not part of this model, or was given twice")
        shape = expected.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"parameter {name!r} has shape {list(tensor.shape)}; expected {list(shape)}")
        yield name, tensor
        del tensor
    if expected:
        raise ValueError(f"parameter {min(expected)!r} is missing ({len(expected)} in all)")


def _flush(staged: Path, number: int, tensors: dict[str, Tensor]) -> list[str]:
    save_file(tensors, staged / _part_name(number), metadata={"format": "pt"})
    return list(tensors)


def _part_name(number: int) -> str:
    return f"part-{number:05d}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
