import pytest
import torch

from nemotron4_model import ModelConfig, Transformer
from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.optimizers import Muon, build_optimizers, orthogonalise

TINY = ModelConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_layers=2, num_attention_heads=4, num_key_value_heads=2
)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_orthogonalise_keeps_the_singular_vectors_and_evens_the_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalise(matrix) @ v.T
    values = found.diagonal()
    assert values.min() > 0.5
    assert values.max() < 1.3
    torch.testing.assert_close(found, torch.diag(values), atol=1e-4, rtol=0)


def test_every_parameter_has_one_optimizer_and_norms_do_not_decay():
    model = Transformer(TINY)
    for kind in OptimizerKind:
        optimizers = build_optimizers(model, OptimizerConfig(kind=kind))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
        for group in groups:
            assert (group["weight_decay"] == 0) == all(parameter.ndim < 2 for parameter in group["params"])
    muon = optimizers[-1]
    assert isinstance(muon, Muon)
    assert len(muon.param_groups[0]["params"]) == 4 * TINY.num_layers


def test_muon_takes_a_step_of_its_learning_rate():
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.0)
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert 0.05 < torch.linalg.matrix_norm(weight.detach(), 2) < 0.13
