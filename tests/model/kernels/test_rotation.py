"""Both paths of the rotation against pairs of dimensions as complex numbers; tables: their values, and who computes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nemotron4_model import ModelConfig
from nemotron4_model.kernels.rotation import rotary_tables, split_and_rotate
from nemotron4_model.rotary import RotaryTables

B, T, K, G, H, R = 2, 5, 2, 3, 8, 2
THETA = 100.0


def definition(qkv_BTKGH: Tensor, position_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In fp64: the pairs (i, i + R) of queries and keys as complex numbers, multiplied by exp(i angle)."""
    x = qkv_BTKGH.double()
    angle_BTR = position_BT[..., None] / THETA ** (torch.arange(R, dtype=torch.float64) / R)
    turn = torch.polar(torch.ones_like(angle_BTR), angle_BTR)[:, :, None, None]
    pairs = torch.complex(x[..., :R].contiguous(), x[..., R : 2 * R].contiguous()) * turn
    rotated = torch.cat([pairs.real, pairs.imag, x[..., 2 * R :]], dim=-1)
    return rotated[..., :-2, :].flatten(2, 3), rotated[..., -2, :], x[..., -1, :]


def compiled() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    torch.compiler.reset()
    return torch.compile(split_and_rotate, fullgraph=True, backend="eager")  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.parametrize("path", [lambda: split_and_rotate, compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("by_row", [False, True], ids=["one table", "a table for each row"])
def test_every_path_is_the_definition(path: Callable[[], Callable], dtype: torch.dtype, by_row: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    qkv_BTKGH = torch.randn(B, T, K, G + 2, H, generator=generator).to(dtype).requires_grad_()
    position_BT = torch.stack([torch.arange(3, 3 + T), torch.arange(10, 10 + T) if by_row else torch.arange(3, 3 + T)])
    angle_BTR = position_BT[..., None] / THETA ** (torch.arange(R, dtype=torch.float64) / R)
    angles = angle_BTR if by_row else angle_BTR[0]
    tables = [table.to(torch.promote_types(dtype, torch.float32)) for table in (angles.cos(), angles.sin())]
    found, expected = path()(qkv_BTKGH, *tables), definition(qkv_BTKGH, position_BT)
    directions = [torch.randn(y.shape, generator=generator).to(dtype) for y in found]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, atol=tolerance, rtol=tolerance)
    (gradient,) = torch.autograd.grad(found, qkv_BTKGH, directions)
    (exact,) = torch.autograd.grad(expected, qkv_BTKGH, [d.double() for d in directions])
    torch.testing.assert_close(gradient, exact, atol=tolerance, rtol=tolerance)


def test_what_backward_keeps_holds_no_queries_and_keys_in_memory() -> None:
    qkv_BTKGH = torch.randn(B, T, K, G + 2, H)
    angles = torch.randn(T, R)
    *_, v_BTKH = split_and_rotate(qkv_BTKGH, angles.cos(), angles.sin())
    assert v_BTKH.untyped_storage().nbytes() == 4 * B * T * K * H


def test_tables_are_those_of_fp64_to_the_last_bit() -> None:
    for table_TR, function in zip(rotary_tables(4_096, 8, 1e4, torch.device("cpu")), (math.cos, math.sin), strict=True):
        expected = [[function(t / 1e4 ** (i / 4)) for i in range(4)] for t in range(4_096)]
        assert torch.equal(table_TR, torch.tensor(expected, dtype=torch.float64).float())


class _Devices(TorchDispatchMode):
    """Records the device of each result, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.seen.append((func.overloadpacket.__name__, result.device.type))
        return result


def test_a_gpu_gets_its_tables_from_the_cpu() -> None:
    """Built there, and materialised there: a GPU's own cosines differ in the last bits."""
    config = ModelConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_sequence_length=8,
    )  # fmt: skip
    with FakeTensorMode(), _Devices() as devices:
        with torch.device("cuda"):
            built = RotaryTables(config)
        with torch.device("meta"):
            materialised = RotaryTables(config)
        assert {device for _, device in devices.seen[-2:]} == {"meta"}
        materialised.to_empty(device="cuda")
    for tables in (built, materialised):
        assert tables.cos.device.type == tables.sin.device.type == "cuda"
    computed = [device for name, device in devices.seen if name in {"arange", "pow", "cos", "sin", "div", "mul"}]
    assert len(computed) >= 2 * 4
    assert set(computed) == {"cpu"}
