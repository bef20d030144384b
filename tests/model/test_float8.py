"""Float8 products of the blocks, emulated in fp32: what torchao's conversion does to our model, off the hardware."""

import sys

import pytest
import torch

from nemotron4_model import ModelConfig, Recompute, Transformer, initialise, parallelise
from nemotron4_model.parallel.float8 import check_float8, convert_blocks

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=64, intermediate_size=256, num_layers=2, num_attention_heads=4, num_key_value_heads=2
)
REFUSAL = "precision.compute (fp8): needs torchao; pip install 'nemotron4-model[float8]'"


def gradients(float8: bool, recompute: Recompute = Recompute.none) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = Transformer(CONFIG)
    if float8:
        convert_blocks(model, emulate=True)
    parallelise(model, None, recompute=recompute)
    model.to_empty(device="cpu")
    initialise(model, 0, CONFIG)
    tokens_BT = torch.randint(CONFIG.vocab_size, (2, 65), generator=torch.Generator().manual_seed(1))
    model(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# torchao looks for libraries of GPUs, and registers its enums in a way that newer torch does by itself.
@pytest.mark.filterwarnings("ignore")
def test_float8_gradients_are_near_those_of_fp32_and_keep_their_names() -> None:
    pytest.importorskip("torchao")
    exact, low = gradients(False), gradients(True)
    assert list(low) == list(exact)
    for name, gradient in exact.items():
        error = float((low[name] - gradient).norm() / gradient.norm())
        # e4m3 has 3 bits after the leading one: rounding alone is some 2 % of a product's inputs.
        assert error < 0.15, name
        assert error > 1e-3 or not name.startswith("blocks."), name
    again = gradients(True, Recompute.selective)
    assert all(torch.equal(again[name], gradient) for name, gradient in low.items())


def test_float8_without_torchao_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError) as caught:
        check_float8()
    assert str(caught.value) == REFUSAL
