"""A model directory read straight into a sharded model: each rank its parts, one file in memory at a time."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import run_distributed
from loading_worker import load_on_each_mesh

from nemotron4_model import ModelConfig, Transformer, initialise, load_pretrained, save_pretrained
from nemotron4_model.hugging_face import NewPieces, load_config, load_weights, weight_files

CONFIG = ModelConfig(
    vocab_size=72,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    init_std=0.1,
    max_sequence_length=16,
)


def published(directory: Path, **changes: Any) -> tuple[str, torch.Tensor, float]:
    """A random model that transformers wrote, in several files; a batch, and its loss there."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    settings = {
        "vocab_size": 74, "hidden_size": 42, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": None,
        "initializer_range": 0.1,
    }  # fmt: skip
    other = transformers.NemotronForCausalLM(transformers.NemotronConfig(**settings, **changes)).eval()
    other.save_pretrained(directory, max_shard_size="20KB")
    batch = torch.randint(74, (4, 17), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = other(batch[:, :-1]).logits
    return str(directory), batch, float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))


def test_any_mesh_loads_its_parts_and_has_the_loss_of_transformers(tmp_path: Path) -> None:
    """Sharded evenly and not, by rows, by columns, and by both along one dimension."""
    directory, batch, loss = published(tmp_path / "theirs")
    assert len(weight_files(directory)) > 3
    with torch.no_grad():
        assert float(load_pretrained(directory)(batch[:, :-1], batch[:, 1:]).mean) == pytest.approx(loss, abs=1e-5)
    alone, new = Transformer(load_config(directory)), NewPieces(60, 70)
    load_weights(alone, directory, new)
    shapes = [(1, 4, 1), (1, 2, 2), (2, 1, 2)]
    for by_mesh in run_distributed(load_on_each_mesh, 4, directory, shapes, new, batch):
        for found, whole in by_mesh:
            assert found == pytest.approx(loss, abs=1e-5)
            for name, parameter in alone.named_parameters():
                assert torch.equal(whole[name], parameter), name


def test_new_rows_begin_at_the_mean_and_padded_rows_stay(tmp_path: Path) -> None:
    stored = Transformer(CONFIG)
    initialise(stored, 3, CONFIG)
    save_pretrained(stored, tmp_path / "m", dtype=torch.float32)
    grown = Transformer(replace(CONFIG, vocab_size=80))
    load_weights(grown, tmp_path / "m", NewPieces(60, 65))
    for name in ("embedding.weight", "head.weight"):
        rows, known = grown.get_parameter(name), stored.get_parameter(name)
        kept = [*range(60), *range(65, 72)]
        assert torch.equal(rows[kept], known[kept])
        mean = known[:60].double().mean(0).float()
        for row in (*range(60, 65), *range(72, 80)):
            torch.testing.assert_close(rows[row], mean, atol=1e-8, rtol=1e-6)


def test_loading_holds_one_file_and_a_few_tensors_beside_the_model(tmp_path: Path) -> None:
    """220 MB of fp32 weights in files of 34 MB."""
    config = ModelConfig(
        vocab_size=8_192, hidden_size=1_024, intermediate_size=3_072, num_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_sequence_length=64,
    )  # fmt: skip
    save_pretrained(Transformer(config), tmp_path / "m", dtype=torch.float32, max_shard_bytes=34_000_000)
    assert sum(file.stat().st_size for file in (tmp_path / "m").glob("*.safetensors")) > 210e6
    script = "import sys, loading_worker; print(loading_worker.memory_of_loading(sys.argv[1]))"
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    settings = os.environ | {"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-c", script, str(tmp_path / "m"))
    done = subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True)
    before, after = map(float, done.stdout.split())
    assert before > 210
    assert after - before < 34 + 33.6  # MB: a file, and the largest tensor
