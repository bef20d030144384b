import math

import pytest

from nemotron4_data import StreamPhase, TokenStream
from nemotron4_train.reporting.source_metrics import SourceMetrics

SIZES = {
    "code/c": {"tokens": 101, "bytes": 404},
    "english/books": {"tokens": 201, "bytes": 1005},
    "english/web": {"tokens": 401, "bytes": 401},
}


class SizedCorpus:
    @property
    def num_train_tokens(self):
        return {name: size["tokens"] for name, size in SIZES.items()}

    def sizes(self, source, split):
        assert split == "train"
        return SIZES[source]


@pytest.fixture
def metrics():
    weights = {"code/c": 0.25, "english/books": 0.5, "english/web": 0.25}
    phases = [StreamPhase(num_samples=40, sequence_length=10, weights=weights)]
    corpus = SizedCorpus()
    return SourceMetrics(corpus, TokenStream(corpus, phases, seed=1, shuffle_block_tokens=20))


def by_name(rows, kind):
    return {row[kind]: row for row in rows}


def test_means_are_weighted_by_tokens_and_bits_by_the_bytes_of_each_source(metrics):
    metrics.add({"english/books": (20.0, 10)})
    metrics.add({"english/books": (40.0, 10), "english/web": (5.0, 20)})
    domains, sources = metrics.take(20)
    english, books = by_name(domains, "domain")["english"], by_name(sources, "source")["english/books"]
    assert english["loss"] == pytest.approx(65 / 40)
    assert english["loss_tokens"] == 40
    assert english["bits_per_byte"] == pytest.approx(65 / math.log(2) / (20 * 5 + 20 * 1), rel=0.01)
    assert books["loss"] == pytest.approx(3.0)
    assert books["bits_per_byte"] == pytest.approx(3 / math.log(2) / 5, rel=0.01)
    assert by_name(domains, "domain")["code"] == {
        "domain": "code", "loss": None, "bits_per_byte": None, "loss_tokens": 0
    }  # fmt: skip


def test_epochs_are_those_drawn_before_the_sample(metrics):
    books = by_name(metrics.take(40)[1], "source")["english/books"]
    assert books["drawn_tokens"] == 200
    assert books["epochs"] == 1.0


def test_taking_starts_again_and_a_loss_that_is_not_finite_hides_no_other(metrics):
    metrics.add({"code/c": (30.0, 10)})
    metrics.take(1)
    assert metrics.is_empty
    metrics.add({"code/c": (math.nan, 10)})
    metrics.add({"code/c": (10.0, 10)})
    assert by_name(metrics.take(2)[0], "domain")["code"]["loss"] == 1.0
