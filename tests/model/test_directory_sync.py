"""Writing a model directory on a file system that syncs no directory."""

import errno
import os

import pytest

from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained


@pytest.mark.parametrize("answer", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_directory_is_used(tmp_path, monkeypatch, answer):
    config = ModelConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_sequence_length=8,
    )
    model = Transformer(config)
    initialise(model, 0, config)
    original = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(answer, os.strerror(answer))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save_pretrained(model, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    assert (tmp_path / "model/model.safetensors").is_file()
