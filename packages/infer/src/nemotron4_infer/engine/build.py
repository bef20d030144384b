"""An engine from a model directory, for every command that generates."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine.runner import make_runner
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.model_directory import check_model_directory, load_tokenizer
from nemotron4_infer.plan import MemoryPlan, free_host_bytes, plan_memory
from nemotron4_infer.weights.engine_weights import EngineWeights
from nemotron4_infer.weights.load import fingerprint, load_engine_weights, resolve_dtype, resolve_quantization
from nemotron4_infer.weights.packed import pack
from nemotron4_model import DType, load_config


@dataclass(frozen=True)
class LoadedWeights:
    """What an engine is made of."""

    weights: EngineWeights
    tokenizer: Tokenizer
    config: EngineConfig
    """With the cache_tokens of the plan."""
    fingerprint: str
    """Names the weights and their format: the server's `system_fingerprint`."""


def build_engine(model_dir: str, dtype: DType | None, config: EngineConfig) -> Engine:
    """Load a model directory, once standard error has the plan of its memory.

    ValueError, one line, if it does not contain a model or does not fit.
    """
    if config.tensor > 1:
        return _build_tensor_parallel(model_dir, dtype, config)
    loaded = load_directory(model_dir, dtype, config)
    runner = make_runner(loaded.weights, loaded.config)
    return Engine(runner, loaded.tokenizer, loaded.config, fingerprint=loaded.fingerprint)


def _build_tensor_parallel(model_dir: str, dtype: DType | None, config: EngineConfig) -> Engine:
    from nemotron4_infer.engine import parallel  # imported here: torch.distributed takes half a second

    path = Path(model_dir)
    check_model_directory(path)
    quantization = resolve_quantization(path, config.quantization)
    rule = "cannot be combined with engine.tensor above 1 yet; set engine.tensor=1"
    require(quantization is None, "engine.quantization", quantization and quantization.value, rule)
    model = load_config(path)
    parallel.check_tensor(model, config.tensor)
    plan = _print_plan(model_dir, dtype, config)
    tokenizer = load_tokenizer(path, model.vocab_size)
    dtype = resolve_dtype(dtype, default_device(), None)
    config = replace(config, cache_tokens=plan.cache_tokens, step_tokens=plan.step_tokens)
    runner = parallel.start(path, dtype, config)
    return Engine(runner, tokenizer, config, fingerprint=fingerprint(path, dtype, None), on_close=runner.shut_down)


def _print_plan(model_dir: str, dtype: DType | None, config: EngineConfig) -> MemoryPlan:
    """Print what a model directory will take on this machine; ValueError, one line, if it is none or does not fit."""
    path, device = Path(model_dir), default_device()
    check_model_directory(path)
    quantization = resolve_quantization(path, config.quantization)
    # With engine.tensor processes share the memory of a CPU; other GPUs are taken to have as much free as the first.
    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes() // config.tensor
    plan = plan_memory(
        load_config(path),
        config,
        dtype=resolve_dtype(dtype, device, quantization),
        quantization=quantization,
        device=str(device),
        free_bytes=free_bytes,
    )
    print("\n".join(plan.lines()), file=sys.stderr, flush=True)
    return plan


def load_directory(model_dir: str, dtype: DType | None, config: EngineConfig) -> LoadedWeights:
    """Print the plan on standard error, then load; ValueError, one line, if there is no model or it does not fit."""
    path, device = Path(model_dir), default_device()
    plan = _print_plan(model_dir, dtype, config)
    quantization = resolve_quantization(path, config.quantization)
    dtype = resolve_dtype(dtype, device, quantization)
    tokenizer = load_tokenizer(path, load_config(path).vocab_size)
    weights = load_engine_weights(path, dtype=dtype.torch_dtype, device=device, quantization=quantization, make=pack)
    return LoadedWeights(
        weights=weights,
        tokenizer=tokenizer,
        config=replace(config, cache_tokens=plan.cache_tokens),
        fingerprint=fingerprint(path, dtype, quantization),
    )


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
