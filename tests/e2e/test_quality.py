"""A scorer that is really trained on a reference: its kind of text scores better than the same characters shuffled."""

import json
import random

import numpy as np
import pytest
from verb import nemotron4

from nemotron4_data import Corpus
from nemotron4_data.curation.quality import QualityFilter, ShardScores, score_shards, thresholds
from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_data.documents import FrameWriter, read_lines


class SerialExecutor:
    def map(self, function, tasks):
        return map(function, tasks)


@pytest.fixture(scope="module")
def scorer(workspace):
    nemotron4(
        "train", "experiment=quality_scorer", "data.dir=data/tiny", "model.vocab_size=1024",
        "schedule.phases.warmup.tokens=5_120", "schedule.phases.main.tokens=20_480",
        "schedule.phases.warmup.sequence_length=64", "schedule.phases.main.sequence_length=64",
        "schedule.phases.main.global_batch_size=8", "model.hidden_size=32", "model.intermediate_size=64",
        "model.num_layers=2", "optimizer=adamw", "optimizer.lr=1.0e-2", "trainer.validation_bytes_per_source=300",
        "logger=csv", cwd=workspace,
    )  # fmt: skip
    nemotron4("export", "run=runs/quality_scorer/latest", cwd=workspace)
    model_dir = workspace / "runs" / "quality_scorer" / "latest" / "export"
    return QualityConfig(domains=["english", "multilingual"], model_dir=str(model_dir), percentiles=[50, 50])


def test_the_reference_scores_better_than_noise_of_the_same_characters(workspace, scorer, tmp_path):
    rng = random.Random(0)
    writer = FrameWriter(tmp_path / "shard.jsonl.zst")
    corpus = Corpus.open(workspace / "data" / "tiny")
    for source in ("english/books", "multilingual/de"):
        for number, text in enumerate(corpus.heldout(source).texts):
            letters = list(text.decode())
            rng.shuffle(letters)
            for kind, shown in (("text", text.decode()), ("noise", "".join(letters))):
                writer.write({"id": f"{kind}-{number}", "text": shown, "source": source})
    writer.close()
    paths = score_shards([tmp_path / "shard.jsonl.zst"], scorer, tmp_path / "scores", SerialExecutor())
    shard = ShardScores.load(paths[0])
    text, noise = shard.bits_per_byte[::2], shard.bits_per_byte[1::2]
    assert np.all(text < noise - 0.5)
    step = QualityFilter(thresholds(paths, scorer), scorer)
    for number, line in enumerate(read_lines(tmp_path / "shard.jsonl.zst")):
        document = json.loads(line)
        shard.annotate(number, document)
        assert (step(document) is None) == document["id"].startswith("text")
