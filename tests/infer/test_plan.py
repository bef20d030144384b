"""The memory plan: NVIDIA's 15B against known numbers, small models against what loading really holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemotron4_infer import plan as plan_module
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.plan import MemoryPlan, engine_weights_bytes, free_host_bytes, plan_memory
from nemotron4_infer.weights.load import load_engine_weights
from nemotron4_model import DType, ModelConfig, load_config

LARGE = ModelConfig.preset("nemotron4_15b")


def plan(
    free_gb: float, quantization: Quantisation | None = None, device: str = "cuda:0", **changes: int
) -> MemoryPlan:
    config = EngineConfig(**changes)
    return plan_memory(
        LARGE, config, dtype=DType.bf16, quantization=quantization, device=device, free_bytes=int(free_gb * 1e9)
    )


def test_the_15b_takes_what_is_known_of_it() -> None:
    assert engine_weights_bytes(LARGE, DType.bf16, None) == pytest.approx(31.26e9, rel=1e-3)
    assert engine_weights_bytes(LARGE, DType.bf16, Quantisation.fp8) == pytest.approx(17.2e9, rel=2e-3)
    assert engine_weights_bytes(LARGE, DType.bf16, Quantisation.int4) == pytest.approx(10.6e9, rel=2e-3)
    on_80gb = plan(79.1)
    assert on_80gb.token_bytes == 131_072
    assert on_80gb.cache_tokens == 64 * 4_096  # as much as can be used
    assert on_80gb.cache_bytes == pytest.approx(34.36e9, rel=1e-3)
    assert on_80gb.lines()[0].split() == ["weights", "31.26", "GB", "15,628,775,424", "parameters", "in", "bf16"]
    assert "262,144 tokens of 131,072 bytes" in on_80gb.lines()[2]
    assert "79.10 GB  on cuda:0, of which 8.91 GB remain" in on_80gb.lines()[3]
    on_48gb = plan(47)
    assert on_48gb.cache_tokens % 256 == 0
    used = on_48gb.weights_bytes + on_48gb.workspace_bytes + on_48gb.cache_bytes
    assert 47e9 - 256 * 131_072 <= used <= 47e9
    assert plan(24, Quantisation.int4).cache_tokens > 60_000
    assert "fewer than the model's context of 4,096: longer requests are refused" in plan(36).lines()[2]


def test_what_does_not_fit_is_refused_with_the_ways_out() -> None:
    with pytest.raises(
        ValueError, match=r"^model_dir \(15,628,775,424 parameters\): needs 31\.26 GB for weights"
    ) as refusal:
        plan(24)
    message = str(refusal.value)
    assert "but cuda:0 has 24.00 GB free; set engine.quantization=fp8 (17.21 GB of weights) or" in message
    assert "engine.quantization=int4 (10.62 GB of weights), lower engine.step_tokens, or use a larger device" in message
    with pytest.raises(ValueError, match="take a smaller model, lower engine"):
        plan(12, Quantisation.int4)
    room = plan(47).cache_tokens
    assert plan(47, cache_tokens=room).cache_tokens == room
    rule = rf"^engine\.cache_tokens \({room + 1}\): does not fit on cuda:0, which has room for {room:,} tokens beside"
    with pytest.raises(ValueError, match=rule):
        plan(47, cache_tokens=room + 1)
    assert plan(79.1, max_running=4).cache_tokens == 4 * 4_096
    with pytest.raises(ValueError, match=r"but cpu has 24\.00 GB free; set engine\.quantization=int8 \(17"):
        plan(24, device="cpu")


@pytest.mark.parametrize("quantization", [None, Quantisation.int8, Quantisation.int4])
def test_the_plan_is_what_loading_holds(model_dir: Path, quantization: Quantisation | None) -> None:
    dtype = DType.fp32 if quantization is None else DType.bf16
    weights = load_engine_weights(
        model_dir, dtype=dtype.torch_dtype, device=torch.device("cpu"), quantization=quantization
    )
    linears = [linear for b in weights.blocks for linear in (b.qkv, b.out, b.up, b.down)]
    norms = [weights.norm, *(norm for b in weights.blocks for norm in (b.attention_norm, b.mlp_norm))]
    tensors = [weights.embedding_VD, weights.cos_PR, weights.sin_PR, *(t for n in norms for t in (n.gain_D, n.bias_D))]
    held = sum(linear.num_bytes for linear in (*linears, weights.head)) + sum(tensor.nbytes for tensor in tensors)
    assert engine_weights_bytes(load_config(model_dir), dtype, quantization) == held


def test_a_cpu_leaves_half_of_its_memory_to_others() -> None:
    half, whole = plan(60, device="cpu"), plan(60, device="cuda")
    room = 60e9 - half.weights_bytes - half.workspace_bytes
    assert half.token_bytes == whole.token_bytes
    assert half.cache_bytes == pytest.approx(room / 2, rel=0.01)


def test_host_memory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert 10e6 < free_host_bytes() <= total
    monkeypatch.setattr(plan_module, "_CONTROL_GROUP", tmp_path)
    contents = {"max": "9000000", "current": "8000000", "stat": "anon 1\nactive_file 2000000\ninactive_file 3000000\n"}
    for name, text in contents.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_host_bytes() == 6_000_000


def test_processes_share_the_linears_and_the_cache() -> None:
    whole, half = plan(79.1, cache_tokens=4_096), plan(79.1, cache_tokens=4_096, tensor=2)
    shared = 2 * (LARGE.num_parameters - LARGE.vocab_size * LARGE.hidden_size)
    assert whole.weights_bytes - half.weights_bytes == pytest.approx(shared / 2, rel=1e-3)
    assert half.token_bytes == 131_072 / 2
    assert "79.10 GB  on each of 2 GPUs, of which" in half.lines()[3]
    with pytest.raises(ValueError, match=r"but each of 2 GPUs has 15\.00 GB free; raise engine\.tensor, lower"):
        plan(15, tensor=2)
    with pytest.raises(ValueError, match=r"but each of 2 processes has 15\.00 GB free"):
        plan(15, tensor=2, device="cpu")


def test_planning_does_not_import_torch() -> None:
    code = "import sys, nemotron4_infer.plan; sys.exit('torch' in sys.modules)"
    subprocess.run((sys.executable, "-c", code), check=True)
