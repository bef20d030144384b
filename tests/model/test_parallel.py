from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.testing._internal.distributed.fake_pg
from distributed import run_distributed
from parallel_worker import CONFIG, train, train_all
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nemotron4_model import (
    ModelConfig,
    Recompute,
    Transformer,
    global_grad_norm_and_clip,
    grad_norms,
    initialise,
    parallelise,
)
from nemotron4_model.parallel.recipe import MESH_AXES
from nemotron4_model.parallel.tensor import check_tensor_parallel


@contextmanager
def fake_mesh(tensor_size: int) -> Iterator[DeviceMesh]:
    """A mesh of one process that believes in others, for what is refused before anything is sent."""
    store = torch.testing._internal.distributed.fake_pg.FakeStore()
    torch.distributed.init_process_group("fake", rank=0, world_size=tensor_size, store=store)
    try:
        yield init_device_mesh("cpu", (1, 1, tensor_size), mesh_dim_names=MESH_AXES)
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train(0, 1, None, {})


@pytest.fixture(scope="module")
def alone_apart() -> dict[str, Any]:
    return train(0, 1, None, {"end_of_document": 5})


CASES: dict[int, dict[str, Any]] = {
    2: {
        "shard 2": ((1, 2, 1), {}),
        "tensor 2 in chunks": ((1, 1, 2), {"chunk_tokens": 10}),
        "shard 2 recomputed selectively": ((1, 2, 1), {"recompute": Recompute.selective}),
        "shard 2 kept": ((1, 2, 1), {"reshard_after_forward": False}),
        "shard 2 in micro-batches": ((1, 2, 1), {"micro_batches": 2}),
        "shard 2 in micro-batches kept": ((1, 2, 1), {"micro_batches": 2, "reshard_after_forward": False}),
        "shard 2 in micro-batches kept and reduced": (
            (1, 2, 1),
            {"micro_batches": 3, "reshard_after_forward": False, "reduce": True},
        ),
        "tensor 2 with documents apart": ((1, 1, 2), {"end_of_document": 5, "recompute": Recompute.full}),
    },
    4: {
        "shard 4 recomputed": ((1, 4, 1), {"recompute": Recompute.full}),
        "tensor 4 recomputed": ((1, 1, 4), {"recompute": Recompute.full}),
        "shard 2 x tensor 2 kept": ((1, 2, 2), {"reshard_after_forward": False}),
        "shard 2 x tensor 2 recomputed selectively": ((1, 2, 2), {"recompute": Recompute.selective}),
        "shard 2 x tensor 2 in micro-batches reduced": ((1, 2, 2), {"micro_batches": 3, "reduce": True}),
        "replicate 2 x shard 2": ((2, 2, 1), {}),
        "replicate 2 x shard 2 in micro-batches reduced": ((2, 2, 1), {"micro_batches": 3, "reduce": True}),
        "replicate 2 x tensor 2": ((2, 1, 2), {}),
    },
}


@pytest.fixture(scope="module")
def together() -> dict[str, list[Any]]:
    """By case, the result of every rank; the cases of one size share their processes, which are slow to start."""
    results = {}
    for size, cases in CASES.items():
        by_rank = run_distributed(train_all, size, cases, timeout_seconds=120)
        results |= {case: [result[case] for result in by_rank] for case in cases}
    return results


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases])
def test_any_mesh_trains_as_one_process(
    case: str, together: Any, alone: dict[str, Any], alone_apart: dict[str, Any]
) -> None:
    alone = alone_apart if "apart" in case else alone
    for result in together[case]:
        assert result["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert result["norms"] == pytest.approx(alone["norms"], rel=1e-5)
        by_name = {name: float(grad.norm()) for name, grad in result["grads"].items()}
        assert result["norms_by_name"] == pytest.approx(by_name, rel=1e-5)
        assert result["start"].keys() == alone["start"].keys()
        for name, full in alone["start"].items():
            assert torch.equal(result["start"][name], full), name
            torch.testing.assert_close(result["grads"][name], alone["grads"][name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result["logits"], alone["logits"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result["last"], alone["logits"][:, -1:], atol=1e-5, rtol=1e-5)


def test_weights_are_gathered_no_more_often_than_they_are_needed(together: Any) -> None:
    gathers = {case: results[0]["gathers"] for case, results in together.items() if case.startswith("shard 2")}
    blocks, head_embedding_and_norm = CONFIG.num_layers, 3
    once = blocks + head_embedding_and_norm
    assert gathers["shard 2 recomputed selectively"] == (once, blocks), "backward reads neither embedding nor head"
    assert gathers["shard 2 kept"] == (once, 0)
    assert gathers["shard 2 in micro-batches"] == (2 * once, 2 * blocks)
    for name in ("shard 2 in micro-batches kept", "shard 2 in micro-batches kept and reduced"):
        assert gathers[name] == (once, 0), "once a step"
    for name, grad in together["shard 2"][0]["grads"].items():
        assert torch.equal(together["shard 2 kept"][0]["grads"][name], grad), name


def test_gradients_are_reduced_once_a_step_or_after_each_micro_batch(together: Any) -> None:
    reductions = {case: results[0]["reductions"] for case, results in together.items()}
    once = CONFIG.num_layers + 3  # embedding, head and norm
    assert reductions["shard 2"] == reductions["shard 2 in micro-batches kept"] == (once, 0)
    assert reductions["shard 2 in micro-batches kept and reduced"] == (3 * once, 0)
    assert reductions["replicate 2 x shard 2"] == (once, once)
    assert reductions["replicate 2 x shard 2 in micro-batches reduced"] == (3 * once, once), "replicas: once a step"


def test_a_norm_that_is_not_finite_leaves_the_gradients_to_be_looked_at() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[30.0, 40.0]]), torch.tensor([torch.inf])
    assert global_grad_norm_and_clip(model, 1.0) == torch.inf
    assert grad_norms(model) == {"weight": 50.0, "bias": torch.inf}


def test_uneven_split_is_refused() -> None:
    with torch.device("meta"):
        model = Transformer(CONFIG)
    config = ModelConfig.preset("nano_3m")
    with pytest.raises(ValueError, match=r"^topology.tensor \(4\): must divide model.num_key_value_heads \(2\); lower"):
        check_tensor_parallel(config, 4)
    parallelise(model, None)


@pytest.mark.parametrize("max_tokens", [0, 1_024], ids=["fused", "blocked"])
@pytest.mark.parametrize("recompute", [Recompute.selective, Recompute.full])
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_gradients_to_the_bit(
    recompute: Recompute, max_tokens: int, low: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemotron4_model.kernels.attention.MAX_BLOCKED_TOKENS", max_tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        kept, again = (train(0, 1, None, {"recompute": option}) for option in (Recompute.none, recompute))
    assert again["losses"] == kept["losses"]
    for name, grad in kept["grads"].items():
        assert torch.equal(again["grads"][name], grad), name


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.parametrize("recompute", Recompute)
def test_compiled_and_recomputed_blocks_give_the_same_gradients(recompute: Recompute, alone: dict[str, Any]) -> None:
    result = train(0, 1, None, {"compile": True, "recompute": recompute})
    assert result["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, grad in alone["grads"].items():
        torch.testing.assert_close(result["grads"][name], grad, atol=1e-5, rtol=1e-5)


@pytest.fixture
def compiled_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backend compiles, but for the code, which costs most of the time."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()


def built(**options: Any) -> Transformer:
    with torch.device("meta"):
        model = Transformer(replace(CONFIG, num_layers=1))
    parallelise(model, None, **options)
    model.to_empty(device="cpu")
    initialise(model, 7, model.config)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("recompute", "low"),
    [
        pytest.param(Recompute.none, True, id="kept in bf16"),
        pytest.param(Recompute.selective, False, id="selective in fp32"),
        pytest.param(Recompute.full, True, id="full in bf16"),
    ],
)
def test_compiled_blocks_take_every_length_of_a_schedule_and_of_validation(
    recompute: Recompute, low: bool, compiled_eagerly: None
) -> None:
    lengths = [16, 9]
    with torch._dynamo.config.patch(recompile_limit=1):
        plain, compiled = built(), built(compile=True, recompute=recompute)
        text = torch.randint(CONFIG.vocab_size, (2, 17), generator=torch.Generator().manual_seed(3))
        counters["stats"].clear()
        for length in lengths:
            for model in (plain, compiled):
                model.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    model(text[:, :length], text[:, 1 : length + 1]).mean.backward()
                    with torch.no_grad():
                        model(text[:1, :length])
            for name, parameter in plain.named_parameters():
                found, expected = compiled.get_parameter(name).grad, parameter.grad
                assert (found - expected).norm() <= (5e-3 if low else 1e-5) * expected.norm(), (name, length)
    assert counters["stats"]["unique_graphs"] == len(lengths), "one graph a length, and none for validation"


def test_a_sequence_that_the_tensor_axis_does_not_divide_is_refused() -> None:
    with fake_mesh(2) as mesh:
        model = Transformer(CONFIG)
        parallelise(model, mesh)
        with pytest.raises(ValueError) as refusal:
            model(torch.zeros(1, 5, dtype=torch.long))
    assert str(refusal.value) == (
        "topology.tensor (2): must divide the sequence length (5), of which sequence parallelism gives each rank an "
        "equal part; change one of them"
    )
