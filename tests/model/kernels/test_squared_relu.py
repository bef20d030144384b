"""Both paths of the activation against its formula."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nemotron4_model.kernels.squared_relu import squared_relu_


def compiled() -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(squared_relu_, fullgraph=True, backend="eager")


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.parametrize("path", [lambda: squared_relu_, compiled], ids=["eager", "compiled"])
def test_every_path_is_the_formula(path: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    activate = path()
    x = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(activate(x.clone()), x.clamp(min=0) ** 2)
    assert torch.autograd.gradcheck(lambda x: activate(x.clone()), (x,))


def test_backward_keeps_one_tensor_in_the_memory_of_the_input() -> None:
    x = torch.randn(100, requires_grad=True)
    given = x.clone()
    y = squared_relu_(given)
    (kept,) = y.grad_fn.saved_tensors  # type: ignore[union-attr]  # it has one
    assert kept.data_ptr() == given.data_ptr()
    assert torch.equal(kept, x.clamp(min=0))
