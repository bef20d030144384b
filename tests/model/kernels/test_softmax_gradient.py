"""Both paths of the softmax's gradient against the definition. The Triton kernels are run by Triton's interpreter."""

import pytest
import torch
from distributed import run_distributed
from torch import Tensor
from triton_worker import compare

from nemotron4_model.kernels.linear import WeightGradient
from nemotron4_model.kernels.softmax_gradient import bytes_per_logit, fp32_buffer, softmax_gradient_
from nemotron4_model.loss import _chunk_tokens


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_become_softmax_minus_target(dtype: torch.dtype) -> None:
    logits_CV = (4 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    targets_C = torch.tensor([0, 49, 7])
    exact = logits_CV.double().requires_grad_()
    expected_C = torch.nn.functional.cross_entropy(exact, targets_C, reduction="none")
    (gradient_CV,) = torch.autograd.grad(expected_C.sum(), exact)
    buffer = fp32_buffer((4, 50), dtype, logits_CV.device)
    nll_C = softmax_gradient_(logits_CV, targets_C, buffer, group=None, want_gradient=True)
    torch.testing.assert_close(nll_C.double(), expected_C.detach(), atol=1e-6, rtol=1e-6)
    assert relative_error(logits_CV, gradient_CV) < (1e-6 if dtype == torch.float32 else 3e-3)  # one rounding to bf16


def test_triton_kernels_equal_torch_on_a_whole_and_on_a_divided_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="comes with torch for CUDA")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for cases in run_distributed(compare, 2, spawn=True):
        for name, found, expected in cases:
            rounding = 1e-6 if "float32" in name else 3e-3
            assert relative_error(found[0], expected[0]) < 1e-6, name
            assert relative_error(found[1], expected[1]) < 2 * rounding, name
            assert relative_error(found[2], expected[2]) < 2 * rounding, name


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # either default will do
@pytest.mark.parametrize("logits", ["bf16", "fp32"])
def test_triton_kernels_compile_for_gpus_of_compute_capability_8_and_9(logits: str) -> None:
    triton = pytest.importorskip("triton", reason="comes with torch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nemotron4_model.kernels import softmax_triton

    types = {"logits": f"*{logits}", "targets": "*i64", "stride": "i32", "V": "constexpr", "BLOCK": "constexpr"}
    constants = {"V": 256_000, "BLOCK": softmax_triton.BLOCK}
    for kernel in (softmax_triton._statistics, softmax_triton._write_gradient):
        signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        for capability in (80, 90):
            options = {"num_warps": softmax_triton.WARPS}
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert compiled.asm["cubin"]


def test_a_chunk_on_a_gpu_is_whole_tiles_of_at_most_2_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemotron4_model.kernels.softmax_gradient._triton_is_usable", lambda device: device == "cuda")
    assert bytes_per_logit(torch.bfloat16, "cuda") == 2
    assert bytes_per_logit(torch.bfloat16, "cpu") == 6
    assert _chunk_tokens("cuda", torch.bfloat16, 256_000) == 4_096
    assert _chunk_tokens("cuda", torch.float32, 256_000) == 2_048
    assert _chunk_tokens("cuda", torch.bfloat16, 256_000 // 8) == 131 * 256
    assert _chunk_tokens("cuda", torch.bfloat16, 10_000_000) == 256
    assert _chunk_tokens("cpu", torch.float32, 8_000) == 786


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_weight_is_summed_in_fp32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    grad_y_NF, x_ND = (torch.randn(64, width, generator=generator).to(dtype) for width in (12, 6))
    gradient = WeightGradient(torch.empty(12, 6, dtype=dtype))
    for part in map(slice, range(0, 64, 4), range(4, 68, 4)):
        gradient.add(grad_y_NF[part], x_ND[part])
    expected = grad_y_NF.double().T @ x_ND.double()
    # A sum in bf16 would be off by some 2^-8 of itself after each of 16 parts.
    assert relative_error(gradient.sum_FD, expected) < (1e-6 if dtype == torch.float32 else 3e-3)
