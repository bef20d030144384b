"""x @ weight.T on a processor, by whichever library multiplies faster.

torch multiplies fp32 matrices by its BLAS. oneDNN is faster for large ones (measured on two threads of a Zen 4, assumed
of other processors with AVX-512), and what torch asks it for is convolution: a linear layer is one whose window is a
single pixel, over an image with a channel a feature.

Invariant: equal to `F.linear` up to the order of fp32 sums, gradients too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_MULTIPLICATIONS, MIN_ROWS_WITH_GRADIENTS = 1 << 28, 1_024
"""Below these some products gain and some lose: tools/bench/results/cpu_linear.json."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., D) to (..., F), for a weight_FD."""
    if not onednn_is_faster(x, weight):
        return F.linear(x, weight)
    pixels_1D1N = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # no copy: what oneDNN calls channels-last
    y_1F1N = F.conv2d(pixels_1D1N, weight[:, :, None, None])
    return y_1F1N.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether this product is one of large plain fp32 matrices, on several threads of a processor with AVX-512."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= MIN_MULTIPLICATIONS
        and not (torch.is_grad_enabled() and x.numel() < MIN_ROWS_WITH_GRADIENTS * x.shape[-1])
        and torch.get_num_threads() > 1
        and not torch.is_autocast_enabled("cpu")
        and type(weight.data) is Tensor  # not a DTensor, nor another subclass
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )
