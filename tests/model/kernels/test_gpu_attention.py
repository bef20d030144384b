"""What attention asks of torch on a GPU, seen from a CPU: which kernels are allowed, how documents are kept apart."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import varlen_on_cpu
from torch import Tensor

from nemotron4_model import ModelConfig, Recompute, Transformer, initialise, parallelise
from nemotron4_model.kernels import attention
from nemotron4_model.kernels.attention import MIN_BOUNDS, PackedDocuments, attend, pack
from nemotron4_model.transformer import separate_documents

END = 7
CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    init_std=0.2,
    max_sequence_length=32,
)


@pytest.fixture
def as_if_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Tensors of the CPU take the paths of CUDA; what torch's attention is asked for is noted."""
    asked: list[dict[str, Any]] = []
    plain = F.scaled_dot_product_attention

    def note(q: Tensor, k: Tensor, *arguments: Any, **options: Any) -> Tensor:
        order = torch._C._get_sdp_priority_order()
        cudnn = torch.nn.attention.SDPBackend.CUDNN_ATTENTION
        enabled = torch.backends.cuda.cudnn_sdp_enabled()
        asked.append(
            {"cudnn": enabled, "first": enabled and order[0] == int(cudnn), "grouped": q.shape[1] != k.shape[1]}
        )
        return plain(q, k, *arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    monkeypatch.setattr(attention, "_is_cuda", lambda x: True)
    monkeypatch.setattr(attention, "_takes_varlen", lambda device, dtype: True)
    monkeypatch.setattr(attention, "MAX_BLOCKED_TOKENS", 0)
    varlen_on_cpu.register()
    varlen_on_cpu.calls.clear()
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch._C._get_sdp_priority_order()
    yield asked
    assert (torch.backends.cuda.cudnn_sdp_enabled(), torch._C._get_sdp_priority_order()) == before


def heads(dtype: torch.dtype, length: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, length, 8, generator=generator).to(dtype).requires_grad_() for n in (6, 2, 2)]


CAUSAL, MASKED = None, PackedDocuments(torch.ones(1, 1, 5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize(
    ("dtype", "gradients", "documents", "cudnn", "grouped"),
    [
        pytest.param(torch.bfloat16, True, CAUSAL, True, True, id="training takes cuDNN"),
        pytest.param(torch.bfloat16, False, CAUSAL, False, True, id="without gradients no plans are built"),
        pytest.param(torch.bfloat16, True, MASKED, False, False, id="a mask takes the memory-efficient kernel"),
        pytest.param(torch.bfloat16, False, MASKED, False, False, id="a mask without gradients"),
        pytest.param(torch.float32, True, CAUSAL, True, False, id="fp32 takes the memory-efficient kernel"),
    ],
)
def test_kernels_that_are_allowed_on_cuda(
    dtype: torch.dtype,
    gradients: bool,
    documents: PackedDocuments | None,
    cudnn: bool,
    grouped: bool,
    as_if_on_cuda: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    qkv = heads(dtype)
    with torch.set_grad_enabled(gradients):
        found = attend(*qkv, 0, documents)
    assert as_if_on_cuda == [{"cudnn": cudnn, "first": cudnn, "grouped": grouped}]
    monkeypatch.undo()
    torch.testing.assert_close(found, attend(*qkv, 0), atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1e-2)


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.parametrize("gradients", [True, False])
def test_the_choice_of_kernels_is_part_of_a_compiled_graph(
    gradients: bool, as_if_on_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(attention, "_is_cuda", lambda x: True)
    monkeypatch.setattr(attention, "MAX_BLOCKED_TOKENS", 0)
    codes: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        codes.append(graph.code)
        return graph

    torch.compiler.reset()
    with torch.set_grad_enabled(gradients):
        torch.compile(attend, fullgraph=True, backend=backend)(*heads(torch.bfloat16), 0)
    before, _ = codes[0].split("scaled_dot_product_attention(")
    assert ("CUDNN_ATTENTION" in before) == gradients
    assert "FLASH_ATTENTION" in before


def text(*lengths: int, rows: int = 2) -> Tensor:
    """tokens_BT whose documents have these lengths."""
    tokens_BT = torch.randint(END + 1, 64, (rows, sum(lengths)), generator=torch.Generator().manual_seed(1))
    for end in torch.tensor(lengths).cumsum(0).tolist()[:-1]:
        tokens_BT[:, end - 1] = END
    return tokens_BT


@pytest.mark.parametrize("count", [1, 3, MIN_BOUNDS // 2, MIN_BOUNDS // 2 + 1, 100])
def test_bounds_are_the_documents_starts_then_the_end(count: int, as_if_on_cuda: Any) -> None:
    tokens_BT = text(*[1 + i % 3 for i in range(count)])
    _, document_BT = separate_documents(tokens_BT, END)
    bounds_E = pack(document_BT, torch.empty(1)).bounds_E
    assert bounds_E is not None
    assert bounds_E.dtype == torch.int32
    room = len(bounds_E) - 1
    assert room >= MIN_BOUNDS
    assert room.bit_count() == 1
    expected = [i for i in range(tokens_BT.numel()) if i % tokens_BT.shape[1] == 0 or tokens_BT.flatten()[i - 1] == END]
    assert len(expected) == 2 * count
    assert bounds_E.tolist() == expected + [tokens_BT.numel()] * (room + 1 - len(expected))


def gradients(tokens_BT: Tensor, **options: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = Transformer(CONFIG)
    parallelise(model, None, **options)
    model.to_empty(device="cpu")
    initialise(model, 0, CONFIG)
    model(tokens_BT[:, :-1], tokens_BT[:, 1:], end_of_document=END).mean.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.filterwarnings("ignore")  # dynamo warns of its own doings
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", Recompute)
def test_documents_apart_by_bounds_equal_those_by_mask(
    recompute: Recompute, compiled: bool, as_if_on_cuda: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        compile_ = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda function, **options: compile_(function, backend="aot_eager", **options)
        )
        torch.compiler.reset()
    tokens_BT = text(3, 1, 9, 2)
    found = gradients(tokens_BT, recompute=recompute, compile=compiled)
    assert as_if_on_cuda == []
    once = CONFIG.num_layers
    assert varlen_on_cpu.calls == [MIN_BOUNDS] * (2 * once if recompute is Recompute.full else once)
    monkeypatch.undo()
    for name, expected in gradients(tokens_BT).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4, msg=name)
