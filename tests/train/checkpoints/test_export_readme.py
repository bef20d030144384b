"""README.md of an export: facts of the model, a name that stays text, and a program that runs."""

import dataclasses
import re

import pytest
import torch
from smoke import smoke_job
from tiny_tokenizer import train_tiny_tokenizer

from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.weights.formats import stored_parts
from nemotron4_model import Transformer, initialise, save_pretrained
from nemotron4_train.checkpoints.export_readme import export_readme


def test_it_says_what_the_export_holds(tmp_path):
    model = smoke_job("data", tmp_path).model
    text = export_readme("smoke", model, step=1_200, tokens=2_560_000, dtype="bf16")
    assert text.startswith(
        "# smoke, step 1,200\n\nA Nemotron-4 model (`NemotronForCausalLM`) after 2,560,000 tokens in 1,200 steps: "
        f"{model.num_parameters:,} parameters in\nbf16, 1,024 token ids, a context of 64 tokens."
    )
    assert "In training, every document was preceded by `</s>` (id 3)." in text
    assert "so llama.cpp adds one to every prompt.\n" in text


@pytest.mark.parametrize("quantization", Quantisation)
def test_a_quantised_export_says_who_reads_it_and_how_it_is_stored(tmp_path, quantization):
    model = smoke_job("data", tmp_path).model
    text = export_readme("smoke", model, step=1, tokens=1, dtype="bf16", quantization=quantization)
    assert f"parameters in\n{quantization.value} and bf16, 1,024 token ids" in text
    assert "which transformers, vLLM and llama.cpp cannot open" in text
    assert "nemotron4 serve model_dir=DIR" in text
    parts = stored_parts(quantization, "head.weight", (128, 128))
    assert set(re.findall(r"`NAME\.(\w+)`", text)) == set(parts)
    assert "{" not in text


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("x\n# y {step}", r"x \# y \{step\}"),
        ("<script>`[a](b)", r"\<script\>\`\[a\]\(b\)"),
        ("日本 1.5", r"日本 1\.5"),
    ],
)
def test_the_name_stays_text(tmp_path, name, heading):
    text = export_readme(name, smoke_job("data", tmp_path).model, step=1, tokens=1, dtype="fp32")
    assert text.splitlines()[0] == f"# {heading}, step 1"


def test_its_program_continues_a_document(tmp_path, capsys):
    pytest.importorskip("transformers")
    config = dataclasses.replace(smoke_job("data", tmp_path).model, max_sequence_length=128)
    model = Transformer(config)
    initialise(model, 0, config)
    (tmp_path / "t.model").write_bytes(train_tiny_tokenizer())
    save_pretrained(model, tmp_path / "m", dtype=torch.float32, tokenizer_model=tmp_path / "t.model")
    text = export_readme("smoke", config, step=1, tokens=1, dtype="fp32")
    program = re.search(r"## transformers.*?```python\n(.*?)```", text, re.DOTALL)[1]
    exec(compile(program.replace("DIR", str(tmp_path / "m")), "README.md", "exec"), {})  # our own text
    assert capsys.readouterr().out.startswith("In the beginning")
