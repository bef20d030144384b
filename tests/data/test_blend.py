"""Blends: who claims which source, how a key's sources share, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron4_data import BlendConfig, Distribution, epochs_table, expand, render_epochs

SIZES = {
    "english/books": 300,
    "english/web": 600,
    "english/news": 100,
    "multilingual/de": 1000,
    "multilingual/sw": 10,
    "code/c": 50,
}
BLENDS = Path(__file__).parents[2] / "conf" / "blend"


def test_the_more_specific_key_claims_its_source():
    weights = expand(Distribution(weights={"english": 0.7, "english/books": 0.3}), SIZES)
    assert weights == pytest.approx({"english/books": 0.3, "english/news": 0.1, "english/web": 0.6})


def test_exponents_flatten_within_a_key():
    weights = {"multilingual": 1.0}
    by_size = expand(Distribution(weights=weights), SIZES)
    flat = expand(Distribution(weights=weights, exponents={"multilingual": 0.0}), SIZES)
    root = expand(Distribution(weights=weights, exponents={"multilingual": 0.5}), SIZES)
    assert by_size["multilingual/de"] / by_size["multilingual/sw"] == pytest.approx(100)
    assert root["multilingual/de"] / root["multilingual/sw"] == pytest.approx(10)
    assert flat == pytest.approx({"multilingual/de": 0.5, "multilingual/sw": 0.5})


@given(st.lists(st.integers(1, 10), min_size=3, max_size=3), st.floats(0, 1))
def test_weights_of_a_key_sum_to_it(raw, exponent):
    keys = ["english", "english/news", "code"]
    weights = {key: value / sum(raw) for key, value in zip(keys, raw, strict=True)}
    expanded = expand(Distribution(weights=weights, exponents={"english": exponent}), SIZES)
    assert sum(expanded.values()) == pytest.approx(1)
    assert expanded["english/books"] + expanded["english/web"] == pytest.approx(weights["english"])


@pytest.mark.parametrize(
    ("weights", "exponents", "message"),
    [
        ({"english": 0.9}, {}, "blend.distributions.p.weights must sum to 1, but sum to 0.9: correct them"),
        (
            {"english": 1.5, "code": -0.5},
            {},
            "blend.distributions.p.weights.english (1.5) must lie in [0, 1]: correct it",
        ),
        (
            {"english": 1.0},
            {"code": 1.0},
            "blend.distributions.p.exponents.code (1.0) has no weight: "
            "add blend.distributions.p.weights.code or remove it",
        ),
        (
            {"english": 1.0},
            {"english": 2.0},
            "blend.distributions.p.exponents.english (2.0) must lie in [0, 1]: 1 is by size, 0 is all alike",
        ),
    ],
)
def test_wrong_blends_are_refused(weights, exponents, message):
    with pytest.raises(ValueError) as error:
        BlendConfig(distributions={"p": Distribution(weights=weights, exponents=exponents)})
    assert str(error.value) == message


@pytest.mark.parametrize("key", ["legal", "english/legal"])
def test_a_key_without_a_source_is_refused(key):
    with pytest.raises(ValueError) as error:
        expand(Distribution(weights={"english": 0.5, key: 0.5}), SIZES, key="blend.distributions.p")
    assert str(error.value) == (
        f"blend.distributions.p.weights.{key} (0.5) matches no source of the corpus that no other key names: remove it "
        "or name one of code/c, english/books, english/news, english/web, multilingual/de, multilingual/sw"
    )


def test_epochs_table_adds_up():
    rows = epochs_table([(1000.0, {"english/web": 1.0}), (300.0, {"english/web": 0.5, "code/c": 0.5})], SIZES)
    by_source = {row.source: row for row in rows}
    assert by_source["english/web"].drawn_tokens == [1000.0, 150.0]
    assert by_source["code/c"].epochs == 3.0
    assert by_source["english/books"].epochs == 0.0
    assert render_epochs(rows).row_count == len(SIZES)


def load_blend(name):
    node = OmegaConf.merge(OmegaConf.structured(BlendConfig), OmegaConf.load(BLENDS / f"{name}.yaml"))
    return OmegaConf.to_object(node)


@pytest.mark.parametrize("name", sorted(path.stem for path in BLENDS.glob("*.yaml")))
def test_shipped_blends_are_valid(name):
    assert "pretraining" in load_blend(name).distributions


def test_the_sample_blend_fits_the_tiny_corpus(corpus):
    for distribution in load_blend("sample").distributions.values():
        assert set(expand(distribution, corpus.num_train_tokens)) == set(corpus.source_names)


def test_the_papers_blend_has_its_shares():
    for name, english in (("pretraining", 0.70), ("continued_general", 0.70), ("continued_qa", 0.63)):
        weights = load_blend("nemotron4").distributions[name].weights
        assert sum(value for key, value in weights.items() if key.startswith("english/")) == pytest.approx(english)
