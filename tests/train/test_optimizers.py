import pytest
import torch

from nemotron4_model import ModelConfig, Transformer
from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.optimizers import Muon, allocate_states, build_optimizers, orthogonalise

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


@pytest.mark.parametrize("kind", OptimizerKind)
def test_allocated_states_are_of_the_form_that_a_step_makes(kind):
    model = Transformer(TINY)
    stepped, allocated = (build_optimizers(model, OptimizerConfig(kind=kind)) for _ in range(2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in stepped:
        optimizer.step()
    allocate_states(allocated)
    for made, expected in zip(allocated, stepped, strict=True):
        forms = [
            {
                parameter: {name: (value.shape, value.dtype, value.stride()) for name, value in state.items()}
                for parameter, state in optimizer.state.items()
            }
            for optimizer in (made, expected)
        ]
        assert forms[0] == forms[1]


@pytest.mark.parametrize("kind", OptimizerKind)
def test_the_embedding_and_the_head_may_have_rates_of_their_own(kind):
    model = Transformer(TINY)

    def peak_rates(config):
        groups = [group for optimizer in build_optimizers(model, config) for group in optimizer.param_groups]
        return {id(parameter): group["peak_lr"] for group in groups for parameter in group["params"]}

    alike = peak_rates(OptimizerConfig(kind=kind, lr=1e-3, muon_lr=2e-2))
    apart = peak_rates(OptimizerConfig(kind=kind, lr=1e-3, muon_lr=2e-2, embedding_lr=5e-3, head_lr=4e-3))
    for name, parameter in model.named_parameters():
        expected = {"embedding.weight": 5e-3, "head.weight": 4e-3}.get(name, alike[id(parameter)])
        assert apart[id(parameter)] == expected
    matrices = [parameter for name, parameter in model.named_parameters() if "blocks." in name and parameter.ndim == 2]
    matrix_lr = OptimizerConfig(kind=kind, lr=1e-3, muon_lr=2e-2).matrix_lr
    assert {alike[id(matrix)] for matrix in matrices} == {matrix_lr}
    assert matrix_lr == {"adamw": 1e-3, "muon": 2e-2}[kind.name]
    assert alike[id(model.head.weight)] == alike[id(model.embedding.weight)] == alike[id(model.norm.weight)] == 1e-3


def test_muon_takes_a_step_of_its_learning_rate():
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.0)
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert 0.05 < torch.linalg.matrix_norm(weight.detach(), 2) < 0.13
