"""What training on CUDA sets, on any machine."""

import os
import subprocess
import sys

import pytest
import torch

from nemotron4_train.cuda_settings import let_segments_grow, sum_in_fp32

WORKER = """
import os, sys
from nemotron4_train.launching.worker_process import settle
settle()
print(os.environ["PYTORCH_ALLOC_CONF"], "torch" in sys.modules)
"""


def test_a_worker_configures_the_allocator_before_torch_can_start_cuda():
    environment = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WORKER], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "expandable_segments:True False\n"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_set_stays(monkeypatch, name):
    for known in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:64")
    let_segments_grow()
    assert {key: value for key, value in os.environ.items() if "ALLOC_CONF" in key} == {name: "max_split_size_mb:64"}


def test_bf16_products_sum_in_fp32():
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    sum_in_fp32()
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_tf32
