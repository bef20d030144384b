"""The language-model quality filter: buckets by language, resumable scoring, honest reasons."""

import json
import random
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_data.curation.quality import (
    QualityFilter,
    ShardScores,
    bucket_of,
    load_scorer,
    quality_facts,
    score_shards,
    thresholds,
)
from nemotron4_data.curation.quality_config import QualityConfig
from nemotron4_data.documents import FrameWriter, read_lines

REFERENCE = "It is a truth universally acknowledged, that a single man in possession of a good fortune. " * 8


class SerialExecutor:
    def map(self, function, tasks):
        return map(function, tasks)


def config_for(directory, **changed):
    changed.setdefault("domains", ["english", "multilingual"])
    scorer = "compressing_scorer:compressing_scorer"
    return QualityConfig(scorer=scorer, model_dir=str(directory / "model"), max_tokens=1000, **changed)


@pytest.fixture
def work(tmp_path):
    """Two shards of 150 documents: more and more noise, in two languages, and code between them."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "reference.txt").write_text(REFERENCE)
    rng = random.Random(0)
    for shard in range(2):
        writer = FrameWriter(tmp_path / f"shard{shard}.jsonl.zst")
        for number in range(150):
            noise = "".join(chr(rng.randrange(97, 123)) for _ in range(4 * number))
            domain = ("english/web", "multilingual/de", "code/c")[number % 3]
            language = {"language": "en"} if number % 6 == 0 else {}
            document = {"id": f"{shard}-{number}", "text": REFERENCE[:200] + noise, "source": domain, **language}
            writer.write(document)
        writer.close()
    return tmp_path


def shards_of(work):
    return sorted(work.glob("shard*"))


def filtered(work, config):
    """The verdict on each document of the first shard."""
    scores = score_shards(shards_of(work), config, work / "scores", SerialExecutor())
    step = QualityFilter(thresholds(scores, config), config)
    found, verdicts = ShardScores.load(scores[0]), []
    for number, line in enumerate(read_lines(shards_of(work)[0])):
        document = json.loads(line)
        found.annotate(number, document)
        verdicts.append((document, step(document)))
    return verdicts


def test_noise_is_dropped_and_the_reason_says_why(work):
    verdicts = filtered(work, config_for(work))
    for language, source in (("en", "english/web"), ("de", "multilingual/de")):
        judged = [(d["bits_per_byte"], reason) for d, reason in verdicts if d["source"] == source]
        kept = [score for score, reason in judged if reason is None]
        dropped = [score for score, reason in judged if reason is not None]
        assert 0.55 < len(kept) / len(judged) < 0.65
        assert max(kept) < min(dropped)
        reasons = {reason for _, reason in judged if reason is not None}
        assert len(reasons) == 1  # reasons are counted: one a bucket and language
        found = re.fullmatch(f"tail of {language}: above (.*) bits per byte", reasons.pop())
        assert max(kept) <= float(found[1]) + 1e-3
        assert float(found[1]) - 1e-3 < min(dropped)


def test_other_domains_are_not_judged(work):
    for document, reason in filtered(work, config_for(work, domains=["english"])):
        if document["source"] != "english/web":
            assert reason is None
            assert "bits_per_byte" not in document


def test_the_kept_buckets_can_be_chosen(work):
    config = config_for(work, keep=["tail"])
    reasons = [reason for document, reason in filtered(work, config) if document["source"] == "english/web"]
    buckets = [reason and reason.split()[0] for reason in reasons]
    assert {None, "head", "middle"} == set(buckets)
    assert "at most" in next(reason for reason in reasons if reason and reason.startswith("head"))


def test_a_rerun_scores_only_what_changed(work):
    config, shards = config_for(work), shards_of(work)
    first = [p.read_bytes() for p in score_shards(shards, config, work / "scores", SerialExecutor())]
    calls = work / "calls"
    assert calls.read_text() == "100\n100\n"
    (work / "scores" / "000001.scores.npz").unlink()
    again = [p.read_bytes() for p in score_shards(shards, config, work / "scores", SerialExecutor())]
    assert again == first
    assert calls.read_text() == "100\n" * 3
    (work / "model" / "reference.txt").write_text(REFERENCE.upper())  # another scorer
    other = [p.read_bytes() for p in score_shards(shards, config, work / "scores", SerialExecutor())]
    assert other != first
    assert calls.read_text() == "100\n" * 5


def test_facts_count_every_judged_document(work):
    config = config_for(work)
    scores = score_shards(shards_of(work), config, work / "scores", SerialExecutor())
    limits = thresholds(scores, config)
    facts = quality_facts(scores, limits, config)
    assert list(facts["languages"]) == ["de", "en"]
    for language, found in facts["languages"].items():
        assert sum(found["documents"].values()) == 100
        assert (found["head_max"], found["middle_max"]) == limits[language]
        assert 30 <= found["documents"]["head"] <= 33
        assert 30 <= found["documents"]["middle"] <= 33
    json.dumps(facts)


def test_a_language_of_one_document_keeps_it(tmp_path):
    ShardScores("key", np.array(["sw", "en"]), np.array([9.0, np.nan])).save(tmp_path / "a.npz")
    config = QualityConfig(model_dir="m")
    limits = thresholds([tmp_path / "a.npz"], config)
    assert limits == {"sw": (9.0, 9.0)}
    document = {"source": "multilingual/sw", "bits_per_byte": 9.0}
    assert QualityFilter(limits, config)(document) is None


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50))
def test_shares_are_those_of_the_percentiles(scores):
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.npz")
        ShardScores("key", np.full(len(scores), "en"), np.array(scores)).save(path)
        config = QualityConfig(model_dir="m")
        limits = thresholds([path], config)
        counted = quality_facts([path], limits, config)["languages"]["en"]["documents"]
    buckets = [bucket_of(score, limits["en"]) for score in scores]
    assert counted == {name: buckets.count(name) for name in ("head", "middle", "tail")}
    assert counted["head"] >= 0.3 * len(scores)
    assert counted["tail"] <= 0.4 * len(scores)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"percentiles": [60.0, 30.0]},
            "curation.quality.percentiles ([60.0, 30.0]): must be two numbers from 0 to 100, the lower first, "
            "as in [30, 60]",
        ),
        (
            {"keep": ["best"]},
            "curation.quality.keep (['best']): must name at least one of head, middle, tail",
        ),
        (
            {"domains": ["english", "code"]},
            "curation.quality.domains (['english', 'code']): must not name code; the reference is prose; code has "
            "curation.code",
        ),
        (
            {"domains": ["english"], "model_dir": ""},
            "curation.quality.model_dir (''): must name the directory of the scorer; train and export one with "
            "`nemotron4 train experiment=quality_scorer`",
        ),
        ({"max_tokens": 0}, "curation.quality.max_tokens (0): must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(changed, message):
    with pytest.raises(ValueError) as error:
        QualityConfig(**{"model_dir": "m", **changed})
    assert str(error.value) == message


def test_a_missing_scorer_is_named(tmp_path):
    with pytest.raises(ValueError) as error:
        score_shards([], QualityConfig(model_dir="nowhere"), tmp_path, SerialExecutor())
    assert str(error.value) == (
        "curation.quality.model_dir (nowhere): is not a directory; train and export a scorer with "
        "`nemotron4 train experiment=quality_scorer`"
    )
    with pytest.raises(ValueError, match=r"^curation\.quality\.scorer \(oracle\): is not installed; install nemo"):
        load_scorer(QualityConfig(model_dir="m", scorer="oracle"))
