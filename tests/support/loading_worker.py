"""What processes of tests/model/test_sharded_loading.py do; its own file so that spawned processes can import it."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from nemotron4_model import Transformer, parallelise
from nemotron4_model.hugging_face import NewPieces, load_config, load_weights
from nemotron4_model.parallel.recipe import MESH_AXES


def load_on_each_mesh(
    rank: int, world_size: int, directory: str, shapes: list[Any], new: NewPieces, batch: torch.Tensor
) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """On each mesh: the loss of a batch by the directory's model, and its whole parameters with rows for new pieces."""
    return [_load_on_mesh(rank, directory, shape, new, batch) for shape in shapes]


def _load_on_mesh(
    rank: int, directory: str, shape: tuple[int, int, int], new: NewPieces, batch: torch.Tensor
) -> tuple[float, dict[str, torch.Tensor]]:
    with torch.device("meta"):
        model = Transformer(load_config(directory))
    parallelise(model, init_device_mesh("cpu", shape, mesh_dim_names=MESH_AXES))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    load_weights(model, directory, new)
    whole = {name: whole_of(parameter) for name, parameter in model.named_parameters()}
    load_weights(model, directory)
    mine = batch.chunk(shape[0] * shape[1])[rank // shape[2]]
    with torch.no_grad():
        mean = model(mine[:, :-1], mine[:, 1:]).mean
    torch.distributed.all_reduce(mean)
    return float(mean) / torch.distributed.get_world_size(), whole


def whole_of(parameter: torch.Tensor) -> torch.Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.full_tensor().detach()


def memory_of_loading(directory: str) -> str:
    """MB: the process's peak once the model has storage, and after loading into it."""
    with torch.device("meta"):
        model = Transformer(load_config(directory))
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)  # every page in use
    before = peak_mb()
    new = NewPieces(load_config(directory).vocab_size - 5, load_config(directory).vocab_size)
    load_weights(model, directory, new)
    return f"{before} {peak_mb()}"


def peak_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6
