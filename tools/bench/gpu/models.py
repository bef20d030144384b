"""Models for the checks, built as training builds them, and the comparison of their gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from nemotron4_model import ModelConfig, Recompute, Transformer, initialise, parallelise

from .context import Context, one_rank_mesh
from .frame import require

_NORM_STD = 0.1
"""Norms begin at zero, where a wrong gain or bias would not show."""


def build(
    context: Context,
    config: ModelConfig,
    *,
    bf16: bool = False,
    float8: bool = False,
    recompute: Recompute = Recompute.none,
    compiled: bool = False,
    mesh: DeviceMesh | None = None,
    draw_here: bool = False,
) -> Transformer:
    """A model with fp32 parameters that computes in fp32 or, on a mesh (by default of this process alone), in bf16.

    Its weights are those of `initialise`, with norms that differ from zero; `draw_here` draws others on the device,
    which is quicker.
    """
    if bf16 and mesh is None:
        mesh = one_rank_mesh(context.device)
    with torch.device("meta"):
        model = Transformer(config)
    parallelise(
        model,
        mesh,
        recompute=recompute,
        compile=compiled,
        reshard_after_forward=mesh is not None and mesh["shard"].size() > 1,  # as training does
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        float8=float8,
    )
    model.to_empty(device=context.device)
    if draw_here:
        draw_weights(model)
    else:
        initialise(model, 7, config)
        _disturb_norms(model)
    return model


def draw_weights(model: nn.Module) -> None:
    """Normal weights for matrices, zero for norms, drawn on the device."""
    for seed, parameter in enumerate(model.parameters()):
        local = parameter.detach()
        local = local.to_local() if isinstance(local, DTensor) else local
        if local.ndim < 2:
            local.zero_()
        else:
            local.normal_(0.0, 0.0134, generator=torch.Generator(local.device).manual_seed(seed))


def _disturb_norms(model: nn.Module) -> None:
    """Add the same numbers on every rank: norms are small."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                full = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
                full = full.to(parameter.device) * _NORM_STD
                if isinstance(parameter, DTensor):
                    mesh, placements = parameter.device_mesh, parameter.placements
                    full = distribute_tensor(full, mesh, placements, src_data_rank=None)
                parameter.add_(full)


def random_tokens(config: ModelConfig, batch: int, length: int, device: str, seed: int = 3) -> Tensor:
    """tokens (batch, length + 1): inputs and, shifted by one, targets."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, length + 1), generator=generator).to(device)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, of one that may be sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters by name, whole, in fp64, on the CPU."""
    return {name: whole(p.detach()).double().cpu() for name, p in model.named_parameters()}


def loss_and_gradients(
    model: Transformer, tokens: Tensor, end_of_document: int | None = None
) -> tuple[float, dict[str, Tensor]]:
    """The mean loss in nats and every gradient, whole, in fp64, on the CPU."""
    model.zero_grad(set_to_none=True)
    loss = model(tokens[:, :-1], tokens[:, 1:], end_of_document=end_of_document).mean
    loss.backward()
    gradients = {name: whole(p.grad).double().cpu() for name, p in model.named_parameters() if p.grad is not None}
    missing = [name for name, _ in model.named_parameters() if name not in gradients]
    require(not missing, f"no gradient: {', '.join(missing)}")
    return loss.item(), gradients


def reference(weights: Mapping[str, Tensor], config: ModelConfig, tokens: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients in fp64 on the CPU, from the definition of the model alone (arXiv 2402.16819, section 2)."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    inputs, targets = tokens[:, :-1].cpu(), tokens[:, 1:].cpu()
    x = leaves["embedding.weight"][inputs]
    for layer in range(config.num_layers):
        block = {name.split(".", 2)[2]: leaf for name, leaf in leaves.items() if name.startswith(f"blocks.{layer}.")}
        x = x + _attention(_norm(x, block, "attention_norm", config), block, config)
        up = _norm(x, block, "mlp_norm", config) @ block["mlp.up.weight"].T
        x = x + up.relu().square() @ block["mlp.down.weight"].T
    logits = _norm(x, leaves, "norm", config) @ leaves["head.weight"].T
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    gradients = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        gradients[name] = leaf.grad
    return loss.item(), gradients


def _norm(x: Tensor, weights: Mapping[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"] + 1, weights[f"{name}.bias"], config.norm_eps)


def _attention(x: Tensor, weights: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    width, groups = config.attention_head_dim, config.num_queries_per_key_value_head
    qkv = (x @ weights["attention.qkv.weight"].T).unflatten(-1, (-1, groups + 2, width))
    q, k, v = _rotated(qkv[..., :-2, :], config), _rotated(qkv[..., -2:-1, :], config), qkv[..., -1, :]
    scores = torch.einsum("btkgh,bskh->bkgts", q, k.squeeze(3)) / math.sqrt(width)
    length = x.shape[1]
    scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
    y = torch.einsum("bkgts,bskh->btkgh", scores.softmax(-1), v)
    return y.flatten(2) @ weights["attention.out.weight"].T


def _rotated(x: Tensor, config: ModelConfig) -> Tensor:
    """x (batch, tokens, key/value heads, rows, head width), rotated by position in the first dimensions."""
    half = config.rotary_dim // 2
    rate = config.rope_theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = (torch.arange(x.shape[1], dtype=torch.float64)[:, None] * rate)[:, None, None]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest), dim=-1)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted; infinite where something is not finite."""
    found, wanted = found.double(), wanted.double()
    error = float((found - wanted).norm() / wanted.norm())
    return error if math.isfinite(error) else math.inf


def worst_gradient(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, float]:
    """The parameter whose gradient is furthest from the one wanted, and how far; fails if a gradient is zero."""
    zero = [name for name, tensor in found.items() if not tensor.any()]
    require(not zero, f"gradients that are zero: {', '.join(zero)}")
    errors = {name: relative_error(found[name], tensor) for name, tensor in wanted.items()}
    return max(errors.items(), key=lambda item: item[1])


def require_same_gradients(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float
) -> dict[str, float]:
    """Fail unless every gradient is near the one wanted, by norm, and none is zero; returns the worst error."""
    name, error = worst_gradient(found, wanted)
    require(
        error <= tolerance,
        f"gradient of {name} is {error:.2g} off, more than {tolerance:g}",
        {"of": name, "error": error},
    )
    return {"error": error}


def milliseconds(context: Context, work: Callable[[], object], repeats: int) -> float:
    """Mean time of `work`, after one untimed run."""
    work()
    if not context.on_cuda:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def copy_bytes_per_second(context: Context) -> float:
    """What a copy on the device moves, counting what is read and what is written."""
    source = torch.zeros(context.sizes.copy_bytes, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    return 2 * len(source) / milliseconds(context, lambda: target.copy_(source), 10) * 1e3
