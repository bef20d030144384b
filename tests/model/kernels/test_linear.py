"""Products by oneDNN equal those of `F.linear`, wherever the model uses them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parallel_worker import train
from torch.utils.flop_counter import FlopCounterMode

from nemotron4_model import Recompute, linear_cross_entropy
from nemotron4_model.kernels import linear as kernel


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every fp32 product goes to oneDNN, small as it is and whatever this processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    for name in ("MIN_MULTIPLICATIONS", "MIN_MULTIPLICATIONS_WITH_GRADIENTS", "MIN_ROWS_WITH_GRADIENTS"):
        monkeypatch.setattr(kernel, name, 1)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(kernel, "is_intel", lambda: False)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (2, 1, 3, 48), (600, 48)], ids=str)
def test_it_is_linear_and_so_are_its_gradients_to_the_same_bits_each_time(
    shape: tuple[int, ...], by_onednn: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    weight = torch.randn(80, 48, generator=generator, requires_grad=True)
    target = torch.randn(*shape[:-1], 80, generator=generator)
    assert kernel.onednn_is_faster(x, weight)
    with FlopCounterMode(display=False) as counter:
        first, second, plain = (
            (y := product(x, weight), *torch.autograd.grad((y * target).sum(), (x, weight)))
            for product in (kernel.linear, kernel.linear, F.linear)
        )
    assert counter.get_total_flops() == 3 * 3 * 2 * x.numel() * 80
    for ours, again, theirs in zip(first, second, plain, strict=True):
        assert torch.equal(ours, again)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_views_that_are_not_contiguous(by_onednn: None) -> None:
    x, weight = torch.randn(48, 5, 3).permute(1, 2, 0), torch.randn(48, 80).T
    torch.testing.assert_close(kernel.linear(x, weight), F.linear(x, weight), atol=1e-4, rtol=1e-5)


def test_intel_one_thread_low_precision_small_products_and_gradients_of_few_rows_stay_with_blas(
    by_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.randn(5, 48), torch.randn(80, 48)
    assert kernel.onednn_is_faster(x, torch.nn.Parameter(weight))
    assert not kernel.onednn_is_faster(x.bfloat16(), weight.bfloat16())
    assert not kernel.onednn_is_faster(x[:0], weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernel.onednn_is_faster(x, weight)
    for name, is_enough in (("MIN_MULTIPLICATIONS_WITH_GRADIENTS", 5 * 48 * 80), ("MIN_ROWS_WITH_GRADIENTS", 5)):
        monkeypatch.setattr(kernel, name, is_enough + 1)
        assert not kernel.onednn_is_faster(x, weight)
        monkeypatch.setattr(kernel, name, is_enough)
        assert kernel.onednn_is_faster(x, weight)
    with torch.no_grad():
        monkeypatch.setattr(kernel, "MIN_MULTIPLICATIONS", 5 * 48 * 80 + 1)
        assert not kernel.onednn_is_faster(x, weight)
        monkeypatch.setattr(kernel, "MIN_MULTIPLICATIONS", 5 * 48 * 80)
        assert kernel.onednn_is_faster(x, weight)
    assert kernel.onednn_is_faster(x, weight)
    monkeypatch.setattr(kernel, "is_intel", lambda: True)
    assert not kernel.onednn_is_faster(x, weight)
    monkeypatch.setattr(kernel, "is_intel", lambda: False)
    torch.set_num_threads(1)
    assert not kernel.onednn_is_faster(x, weight)


@pytest.mark.parametrize("recompute", Recompute)
def test_training_is_the_same_and_computes_no_product_again_that_blas_would_not(
    recompute: Recompute, by_onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_counting_flops(option: Recompute) -> tuple[dict[str, Any], int]:
        with FlopCounterMode(display=False) as counter:
            result = train(0, 1, None, {"recompute": option})
        return result, counter.get_total_flops()

    kept, _ = train_counting_flops(Recompute.none)
    ours, our_flops = train_counting_flops(recompute)
    for name in ("MIN_MULTIPLICATIONS", "MIN_MULTIPLICATIONS_WITH_GRADIENTS"):
        monkeypatch.setattr(kernel, name, 1 << 60)
    plain, plain_flops = train_counting_flops(recompute)
    assert our_flops == plain_flops
    assert ours["losses"] == kept["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    for name, grad in plain["grads"].items():
        assert torch.equal(ours["grads"][name], kept["grads"][name]), name
        torch.testing.assert_close(ours["grads"][name], grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_the_loss_is_that_of_plain_logits(chunk_tokens: int, by_onednn: None) -> None:
    x, weight = torch.randn(2, 16, 24, requires_grad=True), torch.randn(50, 24, requires_grad=True)
    targets = torch.randint(50, (2, 16))
    loss = linear_cross_entropy(x, weight, targets, chunk_tokens=chunk_tokens).mean
    plain = F.cross_entropy((x @ weight.T).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(each, (x, weight)) for each in (loss, plain)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
