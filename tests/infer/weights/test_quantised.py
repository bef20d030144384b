"""Quantised linears give what the dequantised weight gives, for any shape and, on a CPU, any number of rows."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.formats import parts_bytes, stored_parts
from nemotron4_infer.weights.linear import LinearOperator
from nemotron4_infer.weights.quantised import dequantise, quantise, quantise_rows, quantised_linear, tile_operator

CPU = torch.device("cpu")
# Of the largest result: the sums are in fp32, the results and, in fp8 on a CPU, the weights are rounded to bf16.
TOLERANCE = {Quantisation.int8: 2**-7, Quantisation.int4: 2**-7, Quantisation.fp8: 2**-7}
# Relative error of Gaussian weights: half a step of 2 x 4 sigma / 254, of 6 sigma / 15, and of three mantissa bits.
ERROR = {Quantisation.int8: 0.012, Quantisation.int4: 0.12, Quantisation.fp8: 0.03}


def weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def operator(quantization: Quantisation, weight_FD: torch.Tensor) -> LinearOperator:
    return quantised_linear(quantization, quantise(quantization, weight_FD))


@given(
    quantization=st.sampled_from(Quantisation),
    rows=st.integers(1, 12).map(lambda n: 16 * n) | st.integers(1, 200),
    columns=st.integers(1, 20).map(lambda n: 16 * n) | st.integers(1, 300),
    num_rows=st.integers(1, 9),
)
@example(quantization=Quantisation.int8, rows=48, columns=504, num_rows=1)  # crashes the kernel
@example(quantization=Quantisation.int4, rows=48, columns=320, num_rows=3)  # groups of 64
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_operator_multiplies_by_what_is_stored(
    quantization: Quantisation, rows: int, columns: int, num_rows: int
) -> None:
    original_FD = weight(rows, columns)
    parts = stored_parts(quantization, "blocks.0.mlp.up.weight", original_FD.shape)
    is_odd = {
        Quantisation.int8: columns % 16,
        Quantisation.int4: columns % 32 or rows % 16,
        Quantisation.fp8: columns % 16 or rows % 16,
    }[quantization]
    assert (parts is None) == bool(is_odd)
    if parts is None:
        return
    stored = quantise(quantization, original_FD)
    assert {kind: tuple(tensor.shape) for kind, tensor in stored.items()} == {
        k: shape for k, (_, shape) in parts.items()
    }
    assert sum(tensor.nbytes for tensor in stored.values()) == parts_bytes(parts)
    meant_FD = dequantise(quantization, stored)
    assert (meant_FD - original_FD).norm() <= ERROR[quantization] * original_FD.norm()
    linear = quantised_linear(quantization, stored)
    assert (linear.out_features, linear.in_features) == (rows, columns)
    x_ND = torch.randn(num_rows, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected_NF = x_ND.double() @ meant_FD.double().T
    for multiply in (linear, tile_operator(linear)):
        found_NF = multiply(x_ND)
        assert found_NF.dtype is torch.bfloat16
        assert (found_NF - expected_NF).abs().max() <= TOLERANCE[quantization] * expected_NF.abs().max()


@pytest.mark.parametrize("quantization", [Quantisation.int8, Quantisation.int4])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it(quantization: Quantisation, num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for rows, columns in [(272, 512), (128, 2_048)]:
            linear = operator(quantization, weight(rows, columns))
            x_ND = torch.randn(70, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
            whole_NF = linear(x_ND)
            for count in range(1, 71, 2 * num_threads - 1):  # threads wait for busy neighbours
                assert torch.equal(linear(x_ND[:count]), whole_NF[:count]), count
            assert torch.equal(linear(x_ND[37:38]), whole_NF[37:38])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("quantization", Quantisation)
def test_special_rows_survive(quantization: Quantisation) -> None:
    """Zeros, equal values, one large value, and values whose scale is a subnormal number."""
    original_FD = torch.zeros(16, 64)
    original_FD[1], original_FD[2], original_FD[3, 5], original_FD[4] = 0.3, -7.0, 1e4, 1e-39
    found_FD = dequantise(quantization, quantise(quantization, original_FD))
    assert torch.equal(found_FD[0], original_FD[0])
    assert found_FD.isfinite().all()
    torch.testing.assert_close(found_FD[1:4], original_FD[1:4], rtol=2**-7, atol=0)
    assert found_FD[4].abs().max() < 1e-37


@pytest.mark.parametrize("quantization", Quantisation)
def test_parts_of_the_rows_quantise_and_pack_like_the_whole(
    quantization: Quantisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_FD = weight(336, 128)
    whole, linear = quantise(quantization, original_FD), operator(quantization, original_FD)
    monkeypatch.setattr("nemotron4_infer.weights.quantised._ELEMENTS_AT_A_TIME", 128 * 128)
    reads: list[slice] = []

    def read(rows: slice) -> torch.Tensor:
        reads.append(rows)
        return original_FD[rows]

    found = quantise_rows(quantization, "head.weight", original_FD.shape, read, CPU)
    assert [(rows.start, rows.stop) for rows in reads] == [(0, 128), (128, 256), (256, 336)]
    for kind, tensor in whole.items():
        assert torch.equal(found[kind].view(torch.uint8), tensor.view(torch.uint8)), kind
    x_ND = torch.randn(3, 128).bfloat16()
    assert torch.equal(quantised_linear(quantization, found)(x_ND), linear(x_ND))


def test_weights_that_are_not_finite_are_named() -> None:
    bad_FD = weight(32, 64)
    bad_FD[3, 7] = math.nan
    for quantization in Quantisation:
        with pytest.raises(ValueError, match=r"'blocks\.1\.mlp\.up\.weight': has values that are not finite"):
            quantise_rows(quantization, "blocks.1.mlp.up.weight", bad_FD.shape, lambda rows: bad_FD[rows], CPU)


def test_only_linears_are_quantised() -> None:
    assert stored_parts(Quantisation.int8, "head.weight", (64, 64)) is not None
    assert stored_parts(None, "head.weight", (64, 64)) is None
    for name in ("embedding.weight", "norm.weight", "blocks.0.mlp_norm.bias"):
        assert stored_parts(Quantisation.int8, name, (64, 64)) is None
