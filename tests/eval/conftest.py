"""A tiny tokenizer, model and corpus-like object that every evaluation test shares."""

import random

import numpy as np
import pytest
import sentencepiece as spm

from nemotron4_data import HeldOut, Tokenizer
from nemotron4_infer import LoadedModel
from nemotron4_model import ModelConfig, Transformer, initialise

WORDS = "the a red old small fox dog bird tree river runs sings sleeps over near 12 345 für Straße κόσμε".split(" ")  # noqa: SIM905


def sentences(seed, characters):
    """Deterministic text of at least this many characters."""
    rng, parts, length = random.Random(seed), [], 0
    while length < characters:
        parts.append(" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) + rng.choice([". ", ".\n"]))
        length += len(parts[-1])
    return "".join(parts)


class FakeCorpus:
    """What evaluation reads of a corpus, held in memory: source -> texts of its held-out documents."""

    dir = "in memory"

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts, self.heldout_names = tokenizer, texts, list(texts)

    def heldout(self, source):
        documents = self.documents(source)
        offsets = np.cumsum([0, *map(len, documents)])
        return HeldOut(np.concatenate(documents), offsets, [text.encode() for text in self.texts[source]])

    def documents(self, source):
        eos = self.tokenizer.eos_id
        return [np.array([*self.tokenizer.encode(text), eos], dtype=np.uint16) for text in self.texts[source]]

    def heldout_bytes(self, source):
        return "".join(self.texts[source]).encode()


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences("train", 20_000).splitlines()),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=400,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path):
    return Tokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def corpus(tokenizer):
    lengths = {"english/books": [40, 700, 3, 1_500], "english/web": [300] * 6, "multilingual/de": [90], "code/c": [600]}
    return FakeCorpus(
        tokenizer,
        {source: [sentences(f"{source}{i}", n)[:n] for i, n in enumerate(each)] for source, each in lengths.items()},
    )


@pytest.fixture(scope="session")
def model(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
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
    return model.eval()


@pytest.fixture(scope="session")
def loaded(model, tokenizer):
    import torch

    return LoadedModel(model=model, tokenizer=tokenizer, device=torch.device("cpu"))
