"""The names of number formats, which every job shares."""

import torch

from nemotron4_model import DType


def test_each_has_torch_s_dtype():
    assert {dtype.name: dtype.torch_dtype for dtype in DType} == {"fp32": torch.float32, "bf16": torch.bfloat16}
