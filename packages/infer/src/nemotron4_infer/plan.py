"""Whether a model fits before it is loaded: weights, workspace and cache against the free memory of a device.

Invariant: arithmetic on ModelConfig alone, without torch. The weights are exact (formats.py holds what quantised ones
take); the workspace is an estimate that errs on the high side.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.weights.formats import parts_bytes, stored_parts
from nemotron4_model import DType, ModelConfig

_PAGE_TOKENS = {"cpu": 64, "cuda": 256}
# Beside activations and logits. On CUDA: graphs, libraries and what the allocator cannot use.
_ALLOWANCE_BYTES = {"cpu": 200_000_000, "cuda": 1_000_000_000}
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_SHARE = {"cpu": 2, "cuda": 1}
"""Without engine.cache_tokens the cache takes one part of so many of what fits."""


@dataclass(frozen=True)
class MemoryPlan:
    """What generation will take of a device's free memory, in bytes; with engine.tensor, of each device's."""

    device: str
    """Where, in words."""
    free_bytes: int
    weights: str
    """How many, and their format."""
    weights_bytes: int
    step_tokens: int
    """Most tokens of one step."""
    workspace_bytes: int
    token_bytes: int
    """Of a token in the cache."""
    cache_tokens: int
    """Tokens that the cache holds: engine.cache_tokens, or what was chosen in its place."""
    context: int
    """Tokens of the model's context."""

    @property
    def cache_bytes(self) -> int:
        """Of the whole cache."""
        return self.cache_tokens * self.token_bytes

    def lines(self) -> list[str]:
        """What to print before loading."""
        left = self.free_bytes - self.weights_bytes - self.workspace_bytes - self.cache_bytes
        cache = f"{self.cache_tokens:,} tokens of {self.token_bytes:,} bytes"
        if self.cache_tokens < self.context:
            cache += f", fewer than the model's context of {self.context:,}: longer requests are refused"
        rows = [
            ("weights", self.weights_bytes, self.weights),
            ("workspace", self.workspace_bytes, f"steps of at most {self.step_tokens:,} tokens"),
            ("cache", self.cache_bytes, cache),
            ("free", self.free_bytes, f"on {self.device}, of which {_gb(left)} remain"),
        ]
        return [f"{name:<10}{_gb(size):>10}  {text}" for name, size, text in rows]


def plan_memory(
    model: ModelConfig,
    config: EngineConfig,
    *,
    dtype: DType,
    quantization: Quantisation | None,
    device: str,
    free_bytes: int,
) -> MemoryPlan:
    """The plan for a device, named as torch does (cuda:0); `quantization` is the format that is computed with.

    Without engine.cache_tokens the cache is what fits (on a CPU, whose memory others use too, half of that), but no
    more than can be used. With engine.tensor it is one process's, and `free_bytes` what that process may take.
    ValueError, one line with the ways out, if the model or the cache does not fit.
    """
    kind, tensor = device.partition(":")[0], config.tensor
    if tensor > 1:
        device = f"each of {tensor} {'GPUs' if kind == 'cuda' else 'processes'}"
    weights_bytes = engine_weights_bytes(model, dtype, quantization, tensor)
    page = _PAGE_TOKENS[kind]
    rows = config.most_step_tokens(page, on_gpu=kind == "cuda")
    workspace_bytes = _workspace_bytes(model, dtype, quantization, kind, rows)
    token_bytes = model.key_value_bytes_per_token(_size(dtype)) // tensor
    room = free_bytes - weights_bytes - workspace_bytes
    fit = max(0, room // token_bytes // page * page)
    ways = _ways_out(model, dtype, quantization, kind) if tensor == 1 else "raise engine.tensor"
    needs = f"needs {_gb(weights_bytes)} for weights, {_gb(workspace_bytes)} for a step and a cache"
    rule = f"{needs}, but {device} has {_gb(free_bytes)} free; {ways}, lower engine.step_tokens, or use a larger device"
    require(fit >= page, "model_dir", f"{model.num_parameters:,} parameters", rule)
    if config.cache_tokens is None:
        most = config.max_running * -(-model.max_sequence_length // page) * page
        cache_tokens = min(most, max(page, fit // _SHARE[kind] // page * page))
    else:
        cache_tokens = config.cache_tokens
        rule = f"does not fit on {device}, which has room for {fit:,} tokens beside the model; lower it, or {ways}"
        require(cache_tokens <= fit, "engine.cache_tokens", cache_tokens, rule)
    return MemoryPlan(
        device=device,
        free_bytes=free_bytes,
        weights=f"{model.num_parameters:,} parameters in {(quantization or dtype).value}",
        weights_bytes=weights_bytes,
        step_tokens=rows,
        workspace_bytes=workspace_bytes,
        token_bytes=token_bytes,
        cache_tokens=cache_tokens,
        context=model.max_sequence_length,
    )


def engine_weights_bytes(model: ModelConfig, dtype: DType, quantization: Quantisation | None, tensor: int = 1) -> int:
    """Bytes of the loaded weights: embedding and odd shapes in `dtype`, norms and rotary tables in fp32.

    With tensor parallelism a rank holds 1 / `tensor` of the linear weights, and all of the others.
    """
    total = model.vocab_size * model.hidden_size * _size(dtype) + model.rotary_table_bytes
    total += (2 * model.num_layers + 1) * 2 * model.hidden_size * 4
    for name, shape, count in _linears(model):
        parts = stored_parts(quantization, name, shape)
        total += count * (shape[0] * shape[1] * _size(dtype) if parts is None else parts_bytes(parts)) // tensor
    return total


def free_host_bytes() -> int:
    """Memory of this machine, or of this container, that programs can still take."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
        with suppress(OSError, ValueError):  # no such limit
            limit, used = (int((_CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
            # What is kept of files that were read, such as weights, counts as used, but gives way.
            statistics = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
            kept = sum(int(statistics[f"{kind}_file"]) for kind in ("active", "inactive"))
            free = min(free, limit - used + kept)
        return free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _linears(model: ModelConfig) -> list[tuple[str, tuple[int, int], int]]:
    """Name, shape and number of the linear weights."""
    hidden, layers = model.hidden_size, model.num_layers
    return [
        ("attention.qkv.weight", (model.query_width + 2 * model.key_value_width, hidden), layers),
        ("attention.out.weight", (hidden, model.query_width), layers),
        ("mlp.up.weight", (model.intermediate_size, hidden), layers),
        ("mlp.down.weight", (hidden, model.intermediate_size), layers),
        ("head.weight", (model.vocab_size, hidden), 1),
    ]


def _workspace_bytes(model: ModelConfig, dtype: DType, quantization: Quantisation | None, kind: str, rows: int) -> int:
    """Activations of one layer and, as for the log-probabilities of a prompt, logits of every row, also in fp32."""
    width = 6 * model.hidden_size + 2 * (model.query_width + 2 * model.key_value_width) + 2 * model.intermediate_size
    total = rows * (width * _size(dtype) + model.vocab_size * (_size(dtype) + 4)) + _ALLOWANCE_BYTES[kind]
    if quantization is Quantisation.int8 or (
        quantization is Quantisation.int4 and kind == "cpu"
    ):  # a weight at a time is converted
        total += max(shape[0] * shape[1] for _, shape, _ in _linears(model)) * _size(dtype)
    return total


def _ways_out(model: ModelConfig, dtype: DType, quantization: Quantisation | None, kind: str) -> str:
    """The formats that are narrower than this one."""
    now = engine_weights_bytes(model, dtype, quantization)
    names = [Quantisation.fp8 if kind == "cuda" else Quantisation.int8, Quantisation.int4]
    sizes = {each.value: engine_weights_bytes(model, DType.bf16, each) for each in names}
    smaller = [f"engine.quantization={name} ({_gb(size)} of weights)" for name, size in sizes.items() if size < now]
    return f"set {' or '.join(smaller)}" if smaller else "take a smaller model"


def _size(dtype: DType) -> int:
    return {DType.fp32: 4, DType.bf16: 2}[dtype]


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
