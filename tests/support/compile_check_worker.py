"""What one rank of test_compile_check.py does; its own file so that spawned processes can import it."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from parallel_worker import BATCH, CONFIG, LENGTH
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard

from nemotron4_model import DType, Transformer, initialise, parallelise
from nemotron4_model.parallel.tensor import VocabularyParallelEmbedding
from nemotron4_train.compile_check import check_compiled_gradients

_compile = torch.compile
ONE_LAYER = replace(CONFIG, num_layers=1)


def embed_asynchronously(self: VocabularyParallelEmbedding, tokens_BT: Tensor) -> Tensor:
    """As torch's own row-wise parallel embedding does, which leaves the waiting to whoever uses its output."""
    weight_VD = self.weight.to_local()
    local_BT = tokens_BT - self.mesh.get_local_rank() * weight_VD.shape[0]
    elsewhere_BT = (local_BT < 0) | (local_BT >= weight_VD.shape[0])
    x_BTD = F.embedding(local_BT.masked_fill(elsewhere_BT, 0), weight_VD).masked_fill(elsewhere_BT[..., None], 0)
    summed = DTensor.from_local(x_BTD, self.mesh, [Partial()], run_check=False)
    x_BtD = summed.redistribute(placements=[Shard(1)], async_op=True).to_local()
    assert isinstance(x_BtD, AsyncCollectiveTensor)
    return x_BtD


def wrong_on_rank_1(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
    if torch.distributed.get_rank() == 0:
        return graph.forward
    return lambda *inputs: tuple(1.5 * output for output in graph(*inputs))


def step(backend: Any, checked: bool) -> dict[str, Any]:
    """Build a compiled model over tensor 2, check it if asked, take a step; returns what all that left behind."""
    torch.compiler.reset()
    torch.compile = partial(_compile, backend=backend)
    mesh = init_device_mesh("cpu", (1, 1, 2), mesh_dim_names=("replicate", "shard", "tensor"))
    with torch.device("meta"):
        model = Transformer(ONE_LAYER)
    parallelise(model, mesh, compile=True)
    model.to_empty(device="cpu")
    initialise(model, 7, ONE_LAYER)
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)

    def backward() -> None:
        model(tokens[:, :-1], tokens[:, 1:]).mean.backward()

    said, refusal = io.StringIO(), ""
    if checked:
        try:
            with contextlib.redirect_stderr(said):
                check_compiled_gradients(model, backward, DType.fp32)
        except ValueError as error:
            refusal = str(error)
    left = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    backward()
    optimiser.step()
    return {
        "said": said.getvalue(), "refusal": refusal, "left": list(left), "random": torch.get_rng_state(),
        "weights": {name: p.detach().full_tensor() for name, p in model.named_parameters()},
        "graphs": graphs, "new_graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs,
    }  # fmt: skip


def check_all(rank: int, world_size: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # dynamo warns of its own doings
    torch.manual_seed(1)
    embedding = VocabularyParallelEmbedding.forward
    results = {"unchecked": step("eager", False), "checked": step("eager", True)}
    try:
        VocabularyParallelEmbedding.forward = embed_asynchronously  # type: ignore[method-assign]  # restored below
        results["asynchronous"] = step("aot_eager", True)
    finally:
        VocabularyParallelEmbedding.forward = embedding  # type: ignore[method-assign]  # as it was
    results["wrong"] = step(wrong_on_rank_1, True)
    return results
