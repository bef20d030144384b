"""Both paths of the rotation against pairs of dimensions as complex numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nemotron4_model.kernels.rotation import split_and_rotate

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
