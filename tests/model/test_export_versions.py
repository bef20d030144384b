"""An export in transformers as a user loads it. `nox -s compat_export` runs this with each version we claim."""

import json
from pathlib import Path

import pytest
import torch

from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

transformers = pytest.importorskip("transformers")
spm = pytest.importorskip("sentencepiece")
from tiny_tokenizer import train_tiny_tokenizer  # noqa: E402

TEXTS = ["", "  x\n\t42", "the theme 2026", "été 日本語 🙂", "of\nthere ", "a</s> <s> <pad> <0x41>", "▁ literal"]


def export(directory: Path, tokenizer: bytes) -> Transformer:
    config = ModelConfig(
        vocab_size=1_024, hidden_size=32, intermediate_size=48, num_layers=2, num_attention_heads=4,
        num_key_value_heads=2, init_std=0.1, rope_theta=500.0, max_sequence_length=64,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0, config)
    (directory.parent / "t.model").write_bytes(tokenizer)
    save_pretrained(model, directory, dtype=torch.float32, tokenizer_model=directory.parent / "t.model")
    return model


def test_a_user_generates_what_our_model_generates(tmp_path: Path) -> None:
    blob = train_tiny_tokenizer()
    ours = export(tmp_path / "m", blob)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    processor = spm.SentencePieceProcessor(model_proto=blob)
    for text in TEXTS:
        ids = processor.encode(text)
        assert tokenizer(text)["input_ids"] == ids, repr(text)
        assert tokenizer.decode(ids) == processor.decode(ids), repr(text)
    inputs = tokenizer("the theme été", return_tensors="pt")
    assert sorted(inputs) == ["attention_mask", "input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    found = model.generate(**inputs, max_new_tokens=24, min_new_tokens=24, do_sample=False, eos_token_id=None)
    wanted = inputs["input_ids"]
    with torch.no_grad():
        for _ in range(24):
            wanted = torch.cat([wanted, ours(wanted)[:, -1].argmax(-1, keepdim=True)], 1)
    assert found.tolist() == wanted.tolist()


def test_merges_are_written_as_every_version_of_tokenizers_reads_them(tmp_path: Path) -> None:
    export(tmp_path / "m", train_tiny_tokenizer())
    merges = json.loads((tmp_path / "m" / "tokenizer.json").read_text())["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)


def test_a_piece_that_reads_as_the_version_line_keeps_its_merge(tmp_path: Path) -> None:
    """Of merges written as text, tokenizers drops those that begin with "#version", the first line of merges.txt."""
    from tokenizers import __version__

    if __version__ < "0.20":
        pytest.skip("tokenizers before 0.20 reads no merge but text")
    blob = train_tiny_tokenizer(
        ["#version"] * 40 + ["#versionx"] * 5, 40, vocab_size=500, split_by_unicode_script=False
    )
    export(tmp_path / "m", blob)
    processor = spm.SentencePieceProcessor(model_proto=blob)
    assert processor.piece_to_id("#versionx") > 3
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    for text in ("#versionx", " #versionx the", "#version"):
        assert tokenizer(text)["input_ids"] == processor.encode(text)
