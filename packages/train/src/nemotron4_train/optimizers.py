"""The optimisers of a run: AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest.

Invariant: a step gives the same weights, up to the order of fp32 sums, however the parameters are sharded.
Sources: AdamW, arXiv 1711.05101; Muon, arXiv 2502.16982 section 2 (momentum orthogonalised by five Newton-Schulz
iterations), which the ranks share matrix by matrix. torch.optim.Muon iterates in bf16 on a CPU too, which differs
between shardings by more than our equivalence tests allow; drop ours when it takes a dtype.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.ranks import num_ranks, rank

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """The run's optimisers. Each group's `peak_lr` is what the schedule's fractions multiply."""
    named = list(model.named_parameters())
    by_muon = [p for name, p in named if config.kind is OptimizerKind.muon and "blocks." in name and p.ndim == 2]
    embedding = [p for name, p in named if name == "embedding.weight"]
    head = [p for name, p in named if name == "head.weight"]
    taken = {id(parameter) for parameter in by_muon + embedding + head}
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
    groups = [
        {"params": embedding, "weight_decay": config.weight_decay, "lr": config.embedding_lr or config.lr},
        {"params": head, "weight_decay": config.weight_decay, "lr": config.head_lr or config.lr},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if by_muon:
        optimizers.append(Muon(by_muon, config.matrix_lr, config.muon_momentum, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def allocate_states(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Give optimisers that have not taken a step the state of those that have, for a checkpoint to fill: any values."""
    for optimizer in optimizers:
        if optimizer.state:
            continue
        names = ["momentum_buffer"] if isinstance(optimizer, Muon) else ["exp_avg", "exp_avg_sq"]
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            state = optimizer.state[parameter]
            if not isinstance(optimizer, Muon):
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)  # as fused AdamW has it
            state |= {name: torch.empty_like(parameter) for name in names}


class Muon(torch.optim.Optimizer):
    """Momentum for matrices, with all singular values of the update brought near 1."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's returns a closure's loss
        """One update of every matrix that has a gradient. Collective, where they are sharded."""
        assert closure is None
        for group in self.param_groups:
            waiting = [parameter for parameter in group["params"] if parameter.grad is not None]
            sharded = any(isinstance(parameter, DTensor) for parameter in waiting)
            size = num_ranks() if sharded else 1
            for first in range(0, len(waiting), size):
                self._update(waiting[first : first + size], group, rank() if sharded else 0)

    def _update(self, parameters: list[Tensor], group: dict[str, Any], own: int) -> None:
        """Update as many matrices as there are ranks: each orthogonalises one, `own`, and sends it to the others."""
        orthogonal: Tensor | None = None
        for index, parameter in enumerate(parameters):
            direction = self._direction(parameter, group)
            full = direction.full_tensor() if isinstance(direction, DTensor) else direction
            if index == own:
                orthogonal = orthogonalise(full)
        for index, parameter in enumerate(parameters):
            device = parameter.device
            update = orthogonal if index == own else torch.empty(parameter.shape, dtype=_dtype(device), device=device)
            assert update is not None
            if isinstance(parameter, DTensor):
                assert parameter.device_mesh.size() == num_ranks(), "a matrix is sharded or replicated over all ranks"
                if num_ranks() > 1:
                    dist.broadcast(update, index)
                update = distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
            rows, columns = parameter.shape
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update.to(parameter.dtype) * (group["lr"] * max(1.0, rows / columns) ** 0.5))

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov momentum, in the format that it is orthogonalised in; sharded like the parameter."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, gradient = state["momentum_buffer"], parameter.grad
        assert gradient is not None
        buffer.lerp_(gradient, 1 - group["momentum"])
        direction: Tensor = gradient.lerp(buffer, group["momentum"])
        return direction.to(_dtype(direction.device))


def orthogonalise(matrix: Tensor) -> Tensor:
    """The matrix with singular values near 1, by Newton-Schulz iterations; contiguous, in the matrix's dtype."""
    a, b, c = _NEWTON_SCHULZ
    transposed = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if transposed else matrix
    x = x / x.norm(dtype=torch.float32).clamp(min=1e-7)
    x = x.to(matrix.dtype)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if transposed else x
    return result.contiguous()


def _dtype(device: torch.device) -> torch.dtype:
    """The format of the iterations: bf16, in which GPUs multiply ten times as fast, and fp32 on a CPU."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16
