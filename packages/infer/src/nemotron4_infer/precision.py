"""The number format a model directory is loaded in, for generation and evaluation."""

from enum import Enum


class Precision(Enum):
    """Format of weights and activations; norms and softmax are computed in fp32 in all of them."""

    auto = "auto"
    """bf16 on a GPU, fp32 on a CPU, where bf16 is slower."""

    fp32 = "fp32"
    bf16 = "bf16"
