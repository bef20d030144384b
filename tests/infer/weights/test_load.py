"""A model directory read into the engine's weights: equal to the model's own, quantised on the way or as stored."""

import ctypes
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron4_infer.engine.build import load_directory
from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.weights import formats
from nemotron4_infer.weights.engine_weights import EngineWeights, from_transformer
from nemotron4_infer.weights.linear import LinearOperator, PlainLinear
from nemotron4_infer.weights.load import (
    fingerprint,
    load_engine_weights,
    resolve_dtype,
    resolve_quantization,
    stored_quantization,
)
from nemotron4_infer.weights.quantised import Int4Linear, config_entries, encoder
from nemotron4_model import (
    DType,
    ModelConfig,
    Transformer,
    initialise,
    load_pretrained,
    save_pretrained,
    write_pretrained,
)

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=312,  # no multiple of 16: the head stays as it is, but in int8
    hidden_size=96,
    intermediate_size=160,
    num_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    max_sequence_length=16,
)


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = Transformer(CONFIG)
    initialise(made, 0, CONFIG)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.normal_(std=0.1)
    return made


@pytest.fixture(scope="module")
def plain(model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plain") / "m"
    save_pretrained(model, directory, max_shard_bytes=100_000)
    assert (directory / "model.safetensors.index.json").exists()
    return directory


def write(model: Transformer, directory: Path, quantization: Quantisation, max_shard_bytes: int = 60_000) -> Path:
    write_pretrained(
        model.config,
        ((name, parameter.detach()) for name, parameter in model.named_parameters()),
        directory,
        dtype=torch.bfloat16,
        max_shard_bytes=max_shard_bytes,
        encode=encoder(quantization),
        extra_config=config_entries(quantization),
    )
    return directory


def linears(weights: EngineWeights) -> list[LinearOperator]:
    return [*(linear for b in weights.blocks for linear in (b.qkv, b.out, b.up, b.down)), weights.head]


def assert_equal(found: EngineWeights, expected: EngineWeights) -> None:
    assert (found.config, found.dtype, found.device) == (expected.config, expected.dtype, expected.device)
    norms = [[w.norm, *(norm for b in w.blocks for norm in (b.attention_norm, b.mlp_norm))] for w in (found, expected)]
    for mine, theirs in zip(*norms, strict=True):
        assert torch.equal(mine.gain_D, theirs.gain_D)
        assert torch.equal(mine.bias_D, theirs.bias_D)
        assert mine.eps == theirs.eps
    for name in ("embedding_VD", "cos_PR", "sin_PR"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for mine, theirs in zip(linears(found), linears(expected), strict=True):
        assert type(mine) is type(theirs)
        x_ND = torch.randn(4, mine.in_features, generator=torch.Generator().manual_seed(3)).to(found.dtype)
        assert torch.equal(mine(x_ND), theirs(x_ND))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_weights_are_those_of_the_model(model: Transformer, plain: Path, dtype: torch.dtype) -> None:
    found = load_engine_weights(plain, dtype=dtype, device=CPU)
    assert_equal(found, from_transformer(load_pretrained(plain, dtype=dtype), PlainLinear))
    made: list[torch.Size] = []

    def make(weight_FD: torch.Tensor) -> LinearOperator:
        made.append(weight_FD.shape)
        return PlainLinear(weight_FD)

    load_engine_weights(plain, dtype=dtype, device=CPU, make=make)
    assert len(made) == 9


@pytest.mark.parametrize("quantization", Quantisation)
def test_a_quantised_directory_is_what_quantising_at_load_gives(
    model: Transformer, plain: Path, tmp_path: Path, quantization: Quantisation
) -> None:
    stored = write(model, tmp_path / "q", quantization)
    assert (stored / "model.safetensors.index.json").exists()
    assert stored_quantization(stored) is quantization
    found = load_engine_weights(stored, dtype=torch.bfloat16, device=CPU)
    assert_equal(found, load_engine_weights(plain, dtype=torch.bfloat16, device=CPU, quantization=quantization))
    close = {Quantisation.int8: 0.02, Quantisation.int4: 0.15, Quantisation.fp8: 0.04}[quantization]
    for mine, exact in zip(linears(found), linears(from_transformer(model)), strict=True):
        x_ND = torch.randn(4, mine.in_features)
        expected_NF = exact(x_ND)
        assert (mine(x_ND.bfloat16()) - expected_NF).norm() <= close * expected_NF.norm()
    kept = isinstance(found.head, PlainLinear)
    assert kept == (quantization is not Quantisation.int8)
    assert isinstance(found.blocks[0].down, Int4Linear) == (quantization is Quantisation.int4)
    prints = [fingerprint(d, DType.bf16, q) for d, q in ((stored, quantization), (plain, quantization), (plain, None))]
    assert len(set(prints)) == 3
    assert prints[1][:19] == prints[2][:19]


def test_the_fingerprint_tells_models_apart(model: Transformer, plain: Path, tmp_path: Path) -> None:
    first = fingerprint(plain, DType.fp32, None)
    save_pretrained(model, tmp_path / "same", max_shard_bytes=100_000)
    assert fingerprint(tmp_path / "same", DType.fp32, None) == first
    with torch.no_grad():
        other = Transformer(CONFIG)
        other.load_state_dict(model.state_dict())
        other.norm.bias[-1] += 1
    save_pretrained(other, tmp_path / "other", max_shard_bytes=100_000)
    assert fingerprint(tmp_path / "other", DType.fp32, None) != first
    (tmp_path / "same" / "tokenizer.model").write_bytes(b"other pieces")
    assert fingerprint(tmp_path / "same", DType.fp32, None) != first
    path = max((tmp_path / "other").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"\.safetensors: damaged or not a safetensors file"):
        fingerprint(tmp_path / "other", DType.fp32, None)


def test_formats_and_dtypes_that_do_not_go_together_are_refused(
    model: Transformer, plain: Path, tmp_path: Path
) -> None:
    stored = write(model, tmp_path / "q", Quantisation.int8)
    assert resolve_quantization(stored, Quantisation.int8) is Quantisation.int8
    assert resolve_quantization(plain, None) is None
    with pytest.raises(ValueError, match=r"^engine\.quantization \(int4\): must be null or int8, the format of the"):
        load_engine_weights(stored, dtype=torch.bfloat16, device=CPU, quantization=Quantisation.int4)
    with pytest.raises(ValueError, match=r"^dtype \(fp32\): must be bf16 or null with int8 weights"):
        resolve_dtype(DType.fp32, CPU, Quantisation.int8)
    assert resolve_dtype(None, CPU, Quantisation.int8) is DType.bf16
    assert resolve_dtype(None, CPU, None) is DType.fp32
    assert resolve_dtype(None, torch.device("cuda"), None) is DType.bf16
    with pytest.raises(ValueError, match="the weights are quantised, which only `nemotron4 generate`") as refusal:
        load_pretrained(stored)
    assert "config.json: quantization_config" in str(refusal.value)
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="nemotron_quantized"):  # int8 numbers are not the weights
        transformers.AutoConfig.from_pretrained(stored)


def damage_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damage_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


UP = "model.layers.0.mlp.up_proj.weight"
FAULTS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda d: os.truncate(d / "model.safetensors", 3_000), "model.safetensors: damaged or not a safetensors file"),
    (
        lambda d: damage_tensors(d, lambda t: t.pop(f"{UP}_zero")),
        f"tensor '{UP}_zero' is missing; config.json implies one",
    ),
    (
        lambda d: damage_tensors(d, lambda t: t.update({f"{UP}_scale": t[f"{UP}_scale"][:, :1].contiguous()})),
        f"model.safetensors: tensor '{UP}_scale' has shape [160, 1]; config.json implies [160, 3]",
    ),
    (
        lambda d: damage_tensors(d, lambda t: t.update({UP: t[UP].to(torch.int8)})),
        f"model.safetensors: tensor '{UP}' is stored as I8; expected one of U8",
    ),
    (lambda d: damage_tensors(d, lambda t: t.update(extra=torch.zeros(1))), "tensor 'extra' is not part of this model"),
    (
        lambda d: damage_config(d, quantization_config={"quant_method": "gptq", "bits": 4}),
        "must be what `nemotron4 export",
    ),
    (lambda d: damage_config(d, quantization_config=7), "config.json: quantization_config (7): must be what"),
    (
        lambda d: damage_config(d, quantization_config=formats.to_json(Quantisation.int8)),
        "tensor 'model.layers.0.self_attn.q_proj.weight' has shape [96, 48]; config.json implies [96, 96]",
    ),
    (lambda d: damage_config(d, quantization_config=None), "has shape [96, 48]; config.json implies [96, 96]"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_cut_and_foreign_files_are_refused_in_one_line(
    model: Transformer, tmp_path: Path, fault: Callable[[Path], Any], message: str
) -> None:
    stored = write(model, tmp_path / "q", Quantisation.int4, max_shard_bytes=10**9)
    fault(stored)
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        load_engine_weights(stored, dtype=torch.bfloat16, device=CPU)
    assert "\n" not in str(refusal.value)


def peak_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """105 MB of fp32 zeros in four files."""
    config = ModelConfig(
        vocab_size=8_192, hidden_size=1_024, intermediate_size=3_072, num_layers=1, num_attention_heads=8,
        num_key_value_heads=4, max_sequence_length=64,
    )  # fmt: skip
    with torch.device("meta"):
        empty = Transformer(config)
    zeros = ((name, torch.zeros(parameter.shape)) for name, parameter in empty.named_parameters())
    directory = tmp_path_factory.mktemp("large") / "m"
    write_pretrained(config, zeros, directory, dtype=torch.float32, max_shard_bytes=34_000_000)
    assert len(list(directory.glob("*.safetensors"))) == 4
    return directory


@pytest.fixture
def memory_is_returned() -> Iterator[None]:
    """glibc gives tensors back to the system when they are freed, so that the peak is that of tensors in use."""
    mallopt, mmap_threshold = ctypes.CDLL(None).mallopt, -3
    mallopt(mmap_threshold, 1_000_000)
    yield
    mallopt(mmap_threshold, 32 * 2**20)  # what it grows to by itself


@pytest.mark.usefixtures("memory_is_returned")
@pytest.mark.parametrize(("quantization", "held_mb", "parts_mb"), [(None, 105, 0), (Quantisation.int4, 26, 45)])
def test_loading_holds_little_beside_the_weights(
    large: Path, quantization: Quantisation | None, held_mb: float, parts_mb: float
) -> None:
    """Beside what is kept, one file and what one part of a weight needs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = peak_mb()
    dtype = torch.float32 if quantization is None else torch.bfloat16
    weights = load_engine_weights(large, dtype=dtype, device=CPU, quantization=quantization)
    assert sum(linear.num_bytes for linear in linears(weights)) + weights.embedding_VD.nbytes == pytest.approx(
        held_mb * 1e6, rel=0.02
    )
    assert peak_mb() - before < held_mb + 34 + parts_mb + 15


def test_a_directory_is_planned_then_loaded(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_directory(str(model_dir), None, EngineConfig(max_running=2, quantization=Quantisation.int8))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["weights", "workspace", "cache", "free"]
    assert "parameters in int8" in lines[0]
    assert loaded.config.cache_tokens == 2 * 64
    assert (loaded.weights.dtype, loaded.weights.config) == (torch.bfloat16, load_pretrained(model_dir).config)
    assert loaded.tokenizer.vocab_size == loaded.weights.config.vocab_size
    assert loaded.fingerprint == fingerprint(model_dir, DType.bf16, Quantisation.int8)
    monkeypatch.setattr("nemotron4_infer.engine.build.free_host_bytes", lambda: 200_000_000)
    with pytest.raises(ValueError, match=r"^model_dir \(.* parameters\): needs 0\.1 MB for weights, 0\.20 GB for"):
        load_directory(str(model_dir), None, EngineConfig())
    with pytest.raises(ValueError, match=r"^model_dir \(.*\): is not a directory"):
        load_directory(str(tmp_path / "none"), None, EngineConfig())
