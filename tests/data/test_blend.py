"""Blends: which key covers which source, how a key's sources share its weight, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemotron4_data import BlendConfig, Distribution, Sampling, epochs_table, phase_weights, render_epochs
from nemotron4_data import expand as expand_for

SIZES = {
    "english/books": 300,
    "english/web": 600,
    "english/news": 100,
    "multilingual/de": 1000,
    "multilingual/sw": 10,
    "code/c": 50,
}


def expand(distribution, sizes, num_tokens=1_000, **key):
    return expand_for(distribution, sizes, num_tokens, **key)


BLENDS = Path(__file__).parents[2] / "conf" / "blend"


def test_the_more_specific_key_claims_its_source():
    weights = expand(Distribution(weights={"english": 0.7, "english/books": 0.3}), SIZES)
    assert weights == pytest.approx({"english/books": 0.3, "english/news": 0.1, "english/web": 0.6})


def test_exponents_flatten_within_a_key():
    weights = {"multilingual": 1.0}
    by_size = expand(Distribution(weights=weights), SIZES)
    flat = expand(Distribution(weights=weights, sampling={"multilingual": Sampling(exponent=0.0)}), SIZES)
    root = expand(Distribution(weights=weights, sampling={"multilingual": Sampling(exponent=0.5)}), SIZES)
    assert by_size["multilingual/de"] / by_size["multilingual/sw"] == pytest.approx(100)
    assert root["multilingual/de"] / root["multilingual/sw"] == pytest.approx(10)
    assert flat == pytest.approx({"multilingual/de": 0.5, "multilingual/sw": 0.5})


@given(st.lists(st.integers(1, 10), min_size=3, max_size=3), st.floats(0, 1))
def test_weights_of_a_key_sum_to_it(raw, exponent):
    keys = ["english", "english/news", "code"]
    weights = {key: value / sum(raw) for key, value in zip(keys, raw, strict=True)}
    expanded = expand(Distribution(weights=weights, sampling={"english": Sampling(exponent=exponent)}), SIZES)
    assert sum(expanded.values()) == pytest.approx(1)
    assert expanded["english/books"] + expanded["english/web"] == pytest.approx(weights["english"])


def test_a_key_is_a_folder_of_any_depth():
    sizes = {"english/web/a": 10, "english/web/b": 30, "english/webster": 5, "english/books": 20}
    weights = expand(Distribution(weights={"english": 0.5, "english/web": 0.3, "english/web/b": 0.2}), sizes)
    assert weights == pytest.approx(
        {"english/web/b": 0.2, "english/web/a": 0.3, "english/books": 0.4, "english/webster": 0.1}
    )


def test_unimax_shares_equally_up_to_the_cap():
    """Worked by hand: of 900 tokens, sw takes its cap of 20, then fr 60; the other 820 are shared equally."""
    sizes = {"m/sw": 10, "m/fr": 30, "m/de": 1_000, "m/ja": 5_000}
    distribution = Distribution(weights={"m": 1.0}, sampling={"m": Sampling(unimax_epochs=2)})
    expected = {"m/sw": 20 / 900, "m/fr": 60 / 900, "m/de": 410 / 900, "m/ja": 410 / 900}
    assert expand(distribution, sizes, 900) == pytest.approx(expected)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    st.floats(0.1, 8),
    st.floats(0.001, 1),
    st.floats(0.01, 1),
)
def test_unimax_fills_the_budget_and_keeps_the_cap(sizes, epochs, fill, weight):
    corpus = {f"m/{number}": size for number, size in enumerate(sizes)} | {"code/c": 10**9}
    num_tokens = int(fill * epochs * sum(sizes) / weight)
    distribution = Distribution(
        weights={"m": weight, "code": 1 - weight}, sampling={"m": Sampling(unimax_epochs=epochs)}
    )
    if num_tokens == 0:
        return
    weights = expand(distribution, corpus, num_tokens)
    assert sum(weights.values()) == pytest.approx(1)
    drawn = {source: share * num_tokens for source, share in weights.items() if source != "code/c"}
    assert all(drawn[source] <= epochs * corpus[source] * (1 + 1e-9) for source in drawn)
    free = [tokens for source, tokens in drawn.items() if tokens < epochs * corpus[source] * (1 - 1e-6)]
    assert free == pytest.approx([max(drawn.values())] * len(free))  # whoever is below its cap has the most


def test_unimax_without_enough_text_is_refused():
    distribution = Distribution(
        weights={"multilingual": 0.5, "code": 0.5}, sampling={"multilingual": Sampling(unimax_epochs=1.5)}
    )
    with pytest.raises(ValueError) as error:
        expand(distribution, SIZES, 4_000, key="blend.distributions.p")
    assert str(error.value) == (
        "blend.distributions.p.sampling.multilingual.unimax_epochs (1.5): the timeline draws 2,000 tokens from this "
        "key, 1.98 epochs of all its sources; lower its weight, shorten the schedule, add text, or raise unimax_epochs"
    )


WRONG = [
    ({"english": 0.9}, {}, ".weights: must sum to 1, but sum to 0.9; correct them"),
    ({"english": 1.5, "code": -0.5}, {}, ".weights.english (1.5): must lie in [0, 1]; correct it"),
    (
        {"english": 1.0},
        {"code": Sampling(exponent=1.0)},
        ".sampling.code: has no weight; add blend.distributions.p.weights.code or remove it",
    ),
    (
        {"english": 1.0},
        {"english": Sampling(exponent=2.0)},
        ".sampling.english.exponent (2.0): must lie in [0, 1]; 1 is by size, 0 is equal shares",
    ),
    (
        {"english": 1.0},
        {"english": Sampling(unimax_epochs=0.0)},
        ".sampling.english.unimax_epochs (0.0): must be greater than 0",
    ),
    (
        {"english": 1.0},
        {"english": Sampling(unimax_epochs=1.0, exponent=1.0)},
        ".sampling.english: must hold either exponent or unimax_epochs; write for example {exponent: 0.5}",
    ),
]


@pytest.mark.parametrize(("weights", "sampling", "message"), WRONG)
def test_wrong_blends_are_refused(weights, sampling, message):
    with pytest.raises(ValueError) as error:
        BlendConfig(distributions={"p": Distribution(weights=weights, sampling=sampling)})
    assert str(error.value) == f"blend.distributions.p{message}"


def test_a_cap_of_zero_is_refused():
    with pytest.raises(ValueError) as error:
        BlendConfig(distributions={"p": Distribution(weights={"a": 1.0})}, max_epochs=0)
    assert str(error.value) == "blend.max_epochs (0): must be greater than 0"


def test_a_timeline_that_repeats_too_often_is_refused():
    blend = BlendConfig(
        distributions={
            "p": Distribution(weights={"english": 0.9, "code": 0.1}),
            "c": Distribution(weights={"code": 0.5, "english/web": 0.5}),
        }
    )
    phases = [("p", 500), ("p", 500), ("c", 200)]
    weights = phase_weights(blend, phases, SIZES)
    assert weights[0] == weights[1] == expand(blend.distributions["p"], SIZES)
    assert weights[2] == {"code/c": 0.5, "english/web": 0.5}
    with pytest.raises(ValueError) as error:
        phase_weights(blend, [*phases, ("c", 4_600)], SIZES)
    assert str(error.value) == (
        "blend.max_epochs (4): the timeline would read code/c 50.00 times (2,500 tokens of 50) and 1 other source(s) "
        "too often; lower its weight, shorten the schedule, add text, or raise blend.max_epochs"
    )


@pytest.mark.parametrize("key", ["legal", "english/legal"])
def test_a_key_without_a_source_is_refused(key):
    with pytest.raises(ValueError) as error:
        expand(Distribution(weights={"english": 0.5, key: 0.5}), SIZES, key="blend.distributions.p")
    assert str(error.value) == (
        f"blend.distributions.p.weights.{key} (0.5): matches no source of the corpus that no other key names; remove "
        "it or name one of code/c, english/books, english/news, english/web, multilingual/de, multilingual/sw"
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
