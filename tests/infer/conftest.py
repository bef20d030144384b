"""A tiny exported model directory that the command's tests share."""

import logging

import pytest
import sentencepiece as spm
import torch

from nemotron4_data import Tokenizer
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained


@pytest.fixture(autouse=True)
def loggers_speak():
    """A command that a test runs in this process turns off loggers that exist: Hydra's `disabled` logging."""
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("nemotron4") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    lines = [
        f"the {a} fox and the {b} dog, Straße {i}" for i in range(40) for a in ("red", "old") for b in ("big", "shy")
    ]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(root / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer_path = root / "tokenizer.model"
    config = ModelConfig(
        vocab_size=Tokenizer(tokenizer_path).vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        init_std=0.2,
        max_sequence_length=64,
    )
    model = Transformer(config)
    initialise(model, 0, config)
    save_pretrained(model, root / "export", dtype=torch.float32, tokenizer_model=tokenizer_path)
    return root / "export"
