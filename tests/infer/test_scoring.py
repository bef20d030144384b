"""Bits per byte as the quality filter asks for them."""

import math
import random

import pytest
import torch

from nemotron4_data.curation.quality import load_scorer
from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_infer import load_model_directory
from nemotron4_model import DType

SCORER = "nemotron4_infer.scoring:nemotron_scorer"


def config_for(model_dir, **changed):
    return QualityConfig(scorer=SCORER, model_dir=str(model_dir), **changed)


def by_hand(loaded, text, max_tokens):
    """One token after the other, in windows of the model's context, the last one moved back to be full."""
    ids = loaded.tokenizer.encode(text)[:max_tokens]
    context, nats = loaded.model.config.max_sequence_length, 0.0
    with torch.no_grad():
        for scored_from in range(0, len(ids), context):
            end = min(scored_from + context, len(ids))
            start = max(0, end - context)
            inputs = [loaded.tokenizer.eos_id, *ids][start:end]
            log_p = torch.log_softmax(loaded.model(torch.tensor([inputs]))[0].double(), -1)
            nats -= sum(log_p[i - start, ids[i]].item() for i in range(scored_from, end))
    return nats / math.log(2) / len(loaded.tokenizer.decode_bytes(ids))


@pytest.mark.parametrize("max_tokens", [10, 64, 150])
def test_equals_a_sum_by_hand(model_dir, max_tokens):
    loaded = load_model_directory(str(model_dir), DType.fp32)
    texts = ["the red fox", "x", "Straße 🙂 " * 30, "the old dog and the big fox, " * 40]
    scores = load_scorer(config_for(model_dir, max_tokens=max_tokens))(texts)
    assert scores == pytest.approx([by_hand(loaded, text, max_tokens) for text in texts], rel=1e-5)


def test_a_score_does_not_depend_on_its_neighbours(model_dir):
    rng = random.Random(0)
    texts = ["".join(rng.choices("the red fox", k=rng.randint(1, 400))) for _ in range(60)]
    score = load_scorer(config_for(model_dir))
    threads = torch.get_num_threads()
    together = score(texts)
    assert together == score(texts)
    assert together == pytest.approx([score([text])[0] for text in texts], abs=1e-5)
    assert torch.get_num_threads() == threads


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        load_scorer(config_for(tmp_path))
    assert str(error.value) == (
        f"curation.quality.model_dir ({tmp_path}): has no config.json; a model directory contains config.json, "
        "*.safetensors and tokenizer.model; give the export of a run, e.g. runs/demo/latest/export"
    )
