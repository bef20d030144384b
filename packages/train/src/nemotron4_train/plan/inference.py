"""One GPU: whether a model and its cache fit, and how fast it could generate, by the format of its weights.

Memory is the engine's own plan (infer/plan.py). Speed is a roofline: a step takes the longer of reading weights and
cache from memory and of its matrix products. The shares of the peaks are the goals of docs/performance.md; nothing
has been measured on a GPU.
Invariant: arithmetic on ModelConfig and Machine alone, without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.plan import engine_weights_bytes, plan_memory
from nemotron4_model import DType, ModelConfig
from nemotron4_train.machine import Machine, load_machine
from nemotron4_train.plan.cells import Cells
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.topology import Device

MACHINES = ("a100_80g", "h100_sxm", "h200_sxm")
FORMATS: tuple[Quantisation | None, ...] = (None, Quantisation.fp8, Quantisation.int8, Quantisation.int4)
MOST_SEQUENCES = 64
"""Sequences that are generated at once, where so many fit: the engine's default."""

_COPY_SHARE = 3.0 / 3.35
"""Of the data sheet's bandwidth, in copies on an H100; an H200's 4.3 of 4.8 is the same."""
_SHARE = {None: 0.91, Quantisation.fp8: 0.84, Quantisation.int8: 0.84, Quantisation.int4: 0.75}
"""Of a copy's bandwidth, for one sequence: the goals; int8 has none and is taken like fp8."""
_SHARE_OF_MANY = 0.85
"""At most, for more than one sequence."""
_PRODUCT_SHARE = 700 / 989.4
"""Of the peak of matrix products."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a model that fits could do."""

    cache_tokens: int
    """What the memory beside weights and workspace holds, but no more than 1,024 contexts."""
    tokens_per_second_of_one: float
    """One sequence, at the beginning of its context."""
    sequences: int
    """Generated at once, each after half a context: 64, or as many as fit."""
    tokens_per_second_of_all: float
    """All of `sequences`."""
    prompt_seconds: float
    """From a prompt of half a context to its first token."""


@dataclass(frozen=True, kw_only=True)
class OneGpu:
    """A model on one GPU, its linear weights in one format; activations and cache are bf16."""

    machine: str
    weights: str
    """bf16, fp8, int8 or int4."""
    weights_bytes: int
    context_tokens: int
    """The model's context."""
    problem: str | None
    """Why there is no service."""
    service: Service | None


def inference(job: PlanJob) -> list[OneGpu]:
    """The job's model on single GPUs, the topology's kind of machine among them, in every format."""
    own = [job.topology.machine] if job.topology.machine and job.topology.device is Device.cuda else []
    machines = {machine.name: machine for machine in map(load_machine, [*MACHINES, *own])}
    return [one_gpu(job.model, machine, each) for machine in machines.values() for each in FORMATS]


def one_gpu(model: ModelConfig, machine: Machine, quantization: Quantisation | None) -> OneGpu:
    """Estimate a model on a GPU; `quantization` None is bf16."""
    service, problem = None, "no fp8 products"
    if quantization is not Quantisation.fp8 or "fp8" in machine.peak_teraflops:
        service, problem = _service(model, machine, quantization), "does not fit"
    return OneGpu(
        machine=machine.name,
        weights=_name(quantization),
        weights_bytes=engine_weights_bytes(model, DType.bf16, quantization),
        context_tokens=model.max_sequence_length,
        problem=None if service else problem,
        service=service,
    )


def step_seconds(
    model: ModelConfig, machine: Machine, quantization: Quantisation | None, *, sequences: int, context_tokens: int
) -> float:
    """The next token of each of `sequences`, which have `context_tokens` each.

    A step reads all weights but the embedding, and the cache of every sequence.
    """
    unread_bytes = 2 * model.vocab_size * model.hidden_size + model.rotary_table_bytes
    weights_bytes = engine_weights_bytes(model, DType.bf16, quantization) - unread_bytes
    share = _SHARE[quantization]
    if sequences > 1:
        share = min(share, _SHARE_OF_MANY)
        if quantization is Quantisation.int8:  # which the engine writes in bf16 and reads again
            weights_bytes += 2 * (engine_weights_bytes(model, DType.bf16, None) - unread_bytes)
    cache_bytes = sequences * context_tokens * model.key_value_bytes_per_token()
    reading = (weights_bytes + cache_bytes) / (machine.memory_gigabytes_per_second * 1e9 * _COPY_SHARE * share)
    products = sequences * model.flops_per_token(context_tokens + 1) / 3 / _product_rate(machine, quantization)
    return max(reading, products)


def prompt_seconds(
    model: ModelConfig, machine: Machine, quantization: Quantisation | None, prompt_tokens: int
) -> float:
    """From a prompt to its first token: matrix products alone, of int8 and int4 weights in bf16."""
    head = 2 * model.vocab_size * model.hidden_size  # of the last token alone
    flops = prompt_tokens * model.flops_per_token(prompt_tokens, causal=True) / 3 - (prompt_tokens - 1) * head
    return flops / _product_rate(machine, quantization)


def _name(quantization: Quantisation | None) -> str:
    return DType.bf16.value if quantization is None else quantization.value


def _product_rate(machine: Machine, quantization: Quantisation | None) -> float:
    peak = machine.peak_teraflops["fp8" if quantization is Quantisation.fp8 else "bf16"]
    return peak * 1e12 * _PRODUCT_SHARE


def _service(model: ModelConfig, machine: Machine, quantization: Quantisation | None) -> Service | None:
    """None if weights, workspace and a page of cache do not fit."""
    config, free_bytes = EngineConfig(max_running=1_024), machine.memory_bytes
    try:
        plan = plan_memory(
            model, config, dtype=DType.bf16, quantization=quantization, device="cuda", free_bytes=free_bytes
        )
    except ValueError:  # all that it refuses here is what does not fit
        return None
    half = max(1, model.max_sequence_length // 2)
    sequences = max(1, min(MOST_SEQUENCES, plan.cache_tokens // half))
    one = step_seconds(model, machine, quantization, sequences=1, context_tokens=0)
    step = step_seconds(model, machine, quantization, sequences=sequences, context_tokens=half)
    return Service(
        cache_tokens=plan.cache_tokens,
        tokens_per_second_of_one=1 / one,
        sequences=sequences,
        tokens_per_second_of_all=sequences / step,
        prompt_seconds=prompt_seconds(model, machine, quantization, half),
    )


def as_json(found: Sequence[OneGpu]) -> list[dict[str, Any]]:
    """The `inference` of plan.json."""
    return [asdict(each) for each in found]


def cells(found: Sequence[OneGpu]) -> Cells:
    """GPUs and formats, a row each."""
    context = found[0].context_tokens
    half = f"{max(1, context // 2):,}"
    header = ["GPU", "weights", "GB", "tokens of cache", f"contexts of {context:,}"]
    header += ["tokens/s of one", f"of {MOST_SEQUENCES} after {half}", f"ms for a prompt of {half}"]
    of_bandwidth = ", ".join(f"{_COPY_SHARE * _SHARE[each]:.0%} in {_name(each)}" for each in FORMATS)
    caption = (
        f"Estimates, not measured on a GPU: goals of docs/performance.md on the data sheet's peaks, {of_bandwidth} (at"
        f" most {_COPY_SHARE * _SHARE_OF_MANY:.0%} for many sequences) of bandwidth, {_PRODUCT_SHARE:.0%} of products"
    )
    return Cells(title="One GPU", header=header, rows=[_row(each) for each in found], caption=caption)


def _row(found: OneGpu) -> list[str]:
    start = [found.machine, found.weights, f"{found.weights_bytes / 1e9:.1f}"]
    service = found.service
    if service is None:
        return [*start, found.problem or "", *[""] * 4]
    all_of_them = f"{service.tokens_per_second_of_all:,.0f}"
    if service.sequences < MOST_SEQUENCES:
        all_of_them += f" ({service.sequences} fit)"
    return [
        *start,
        f"{service.cache_tokens:,}",
        f"{service.cache_tokens // found.context_tokens:,}",
        f"{service.tokens_per_second_of_one:,.0f}",
        all_of_them,
        f"{1e3 * service.prompt_seconds:,.3g}",
    ]
