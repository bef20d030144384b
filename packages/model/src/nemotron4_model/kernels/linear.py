"""A linear layer without bias, x @ weight.T, and its gradients.

Paths:
- large products of plain fp32 matrices on a CPU (`onednn_is_faster` says exactly which): oneDNN;
- everything else: `F.linear`, which multiplies by torch's BLAS or by the GPU's;
- gradients of a weight that are summed in fp32: fp32 products add to the sum themselves, and so do bf16 and fp16
  products on CUDA. Elsewhere a product is rounded to its dtype before it is added: of the weight's gradient, 12 bytes
  an element are moved instead of 8, for each part. The path on CUDA has not run on a GPU.

oneDNN was faster for large products on two threads of a Zen 4. On an Intel Xeon, for which torch's BLAS is made, it is
slower, by some 10 % with gradients (tools/bench/results/cpu_linear.json), and not used. torch offers its fp32 products
only as convolution: a linear layer is a convolution whose window is a single pixel, over an image with one channel per
feature.

Invariant: both paths are equal up to the order of fp32 sums, gradients included.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_MULTIPLICATIONS = 1 << 28
MIN_MULTIPLICATIONS_WITH_GRADIENTS, MIN_ROWS_WITH_GRADIENTS = 1 << 27, 1_024
"""On a Zen 4, smaller products gained in some shapes and lost in others (tools/bench/cpu_linear.py)."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., D) to (..., F), for a weight_FD."""
    if not onednn_is_faster(x, weight):
        return F.linear(x, weight)
    y_1F1N = F.conv2d(_pixels(x), weight[:, :, None, None])
    return y_1F1N.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def input_gradient(grad_y_NF: Tensor, weight_FD: Tensor, out_ND: Tensor) -> None:
    """Write grad_y @ weight, the gradient of a linear layer's input, into `out`."""
    if not onednn_is_faster(grad_y_NF, weight_FD.T):
        torch.mm(grad_y_NF, weight_FD, out=out_ND)
        return
    stride, padding, dilation, groups, wanted = [1, 1], [0, 0], [1, 1], 1, [True, False, False]
    # Only the shape of the convolution's input is read, so `out` can stand in for it.
    grad_x_1D1N, _, _ = torch.ops.aten.convolution_backward(
        _pixels(grad_y_NF), _pixels(out_ND), weight_FD[:, :, None, None], None,
        stride, padding, dilation, False, [0, 0], groups, wanted,
    )  # fmt: skip
    out_ND.copy_(grad_x_1D1N.permute(0, 2, 3, 1).reshape(out_ND.shape))


class WeightGradient:
    """The sum of grad_y.T @ x, the gradient of a linear layer's weight, over parts of a batch; kept in fp32."""

    def __init__(self, weight_FD: Tensor) -> None:
        """Allocate memory for the gradient of `weight`, whose dtype is that of the products."""
        self.sum_FD = torch.empty_like(weight_FD, dtype=torch.float32)
        self.is_empty = True
        adds_itself = weight_FD.dtype == torch.float32 or weight_FD.device.type == "cuda"
        self.product_FD = None if adds_itself else torch.empty_like(weight_FD)

    def add(self, grad_y_NF: Tensor, x_ND: Tensor) -> None:
        """Add the gradient of one part."""
        sum_FD, beta, self.is_empty = self.sum_FD, 0 if self.is_empty else 1, False
        if self.product_FD is not None:
            torch.mm(grad_y_NF.T, x_ND, out=self.product_FD)
            sum_FD.copy_(self.product_FD) if beta == 0 else sum_FD.add_(self.product_FD)
        elif x_ND.dtype == torch.float32:
            torch.addmm(sum_FD, grad_y_NF.T, x_ND, beta=beta, out=sum_FD)
        else:
            torch.addmm(sum_FD, grad_y_NF.T, x_ND, out_dtype=torch.float32, beta=beta, out=sum_FD)


def onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a large product of plain fp32 matrices, on several threads of a CPU with AVX-512, not Intel's."""
    multiplications = x.numel() * weight.shape[0]
    if torch.is_grad_enabled():
        has_enough_rows = x.numel() >= MIN_ROWS_WITH_GRADIENTS * x.shape[-1]
        is_large = has_enough_rows and multiplications >= MIN_MULTIPLICATIONS_WITH_GRADIENTS
    else:
        is_large = multiplications >= MIN_MULTIPLICATIONS
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and is_large
        and torch.get_num_threads() > 1
        and not torch.is_autocast_enabled("cpu")
        and type(weight.data) is Tensor  # not a DTensor, nor another subclass
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not is_intel()
    )


@cache
def is_intel() -> bool:
    """Whether the processor is one that torch's BLAS, Intel's MKL, is made for, as far as the system says."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _pixels(x: Tensor) -> Tensor:
    """x (..., D) as x_1D1N, without a copy: the layout that oneDNN calls channels-last."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
