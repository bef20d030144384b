"""The order of training data: every pair once an epoch, whatever the blend, lengths, cuts, ranks and restarts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import StreamPhase, TokenStream

NAMES = ("code/c", "english/books", "english/web", "multilingual/de")


class FakeCorpus:
    """Token t of a source is t itself, so that a batch shows where it was read."""

    def __init__(self, sizes):
        self.num_train_tokens = sizes

    def train(self, source):
        return np.arange(self.num_train_tokens[source], dtype=np.int32)


@st.composite
def streams(draw):
    sizes = {name: draw(st.integers(2, 200)) for name in NAMES[: draw(st.integers(1, 4))]}
    phases = []
    for _ in range(draw(st.integers(1, 3))):
        raw = {name: draw(st.integers(0, 10)) for name in sizes}
        raw[draw(st.sampled_from(sorted(sizes)))] += 1
        phases.append(
            StreamPhase(
                num_samples=draw(st.integers(1, 60)),
                sequence_length=draw(st.integers(1, 48)),
                weights={name: value / sum(raw.values()) for name, value in raw.items()},
            )
        )
    return TokenStream(FakeCorpus(sizes), phases, draw(st.integers(0, 99)), draw(st.integers(1, 64)))


def samples_of(stream, phase):
    first = sum(earlier.num_samples for earlier in stream.phases[:phase])
    return range(first, first + stream.phases[phase].num_samples)


def read_in_order(stream):
    """All (input, target) pairs by source, in the order of the samples."""
    pairs = {name: [] for name in stream.source_names}
    for phase in range(len(stream.phases)):
        batch = stream.read(samples_of(stream, phase))
        for row, source in enumerate(batch.sources_B.tolist()):
            pairs[stream.source_names[source]] += zip(
                batch.inputs_BT[row].tolist(), batch.targets_BT[row].tolist(), strict=True
            )
    return pairs


@settings(max_examples=60)
@given(streams())
def test_each_pair_comes_exactly_once_an_epoch(stream):
    drawn = stream.positions(stream.num_samples)
    for name, pairs in read_in_order(stream).items():
        per_epoch = stream._corpus.num_train_tokens[name] - 1
        assert len(pairs) == drawn[name]
        assert all(target == token + 1 for token, target in pairs)
        for start in range(0, len(pairs), per_epoch):
            inputs = [token for token, _ in pairs[start : start + per_epoch]]
            assert len(set(inputs)) == len(inputs)
            if len(inputs) == per_epoch:
                assert set(inputs) == set(range(per_epoch))


@settings(max_examples=60)
@given(streams())
def test_blocks_are_read_whole_and_the_short_one_last(stream):
    block = stream.shuffle_block_tokens
    for name, pairs in read_in_order(stream).items():
        per_epoch = stream._corpus.num_train_tokens[name] - 1
        for start in range(0, len(pairs), per_epoch):
            inputs = [token for token, _ in pairs[start : start + per_epoch]]
            for slot in range(0, len(inputs), block):
                piece = inputs[slot : slot + block]
                assert piece[0] % block == 0
                assert piece == list(range(piece[0], piece[0] + len(piece)))
            if len(inputs) == per_epoch and per_epoch % block:
                assert inputs[-1] == per_epoch - 1


@settings(max_examples=60)
@given(streams(), st.data())
def test_a_batch_does_not_depend_on_how_it_is_cut(stream, data):
    """Random access, any order, ranks and restarts read what one sequential pass reads."""
    phase = data.draw(st.integers(0, len(stream.phases) - 1))
    samples = list(samples_of(stream, phase))
    whole = stream.read(samples)
    chosen = data.draw(st.lists(st.sampled_from(samples), min_size=1, max_size=12))
    fresh = TokenStream(stream._corpus, stream.phases, stream.seed, stream.shuffle_block_tokens)
    part = fresh.read(chosen)
    rows = [sample - samples[0] for sample in chosen]
    assert np.array_equal(part.inputs_BT, whole.inputs_BT[rows])
    assert np.array_equal(part.targets_BT, whole.targets_BT[rows])
    assert np.array_equal(part.sources_B, whole.sources_B[rows])
    num_ranks = data.draw(st.integers(1, 4))
    for rank in range(num_ranks):
        if mine := samples[rank::num_ranks]:
            assert np.array_equal(fresh.read(mine).inputs_BT, whole.inputs_BT[rank::num_ranks])


@settings(max_examples=40)
@given(streams(), st.data())
def test_positions_equal_what_was_read(stream, data):
    sample = data.draw(st.integers(0, stream.num_samples))
    expected = dict.fromkeys(stream.source_names, 0)
    for phase in range(len(stream.phases)):
        if before := [n for n in samples_of(stream, phase) if n < sample]:
            for source in stream.read(before).sources_B.tolist():
                expected[stream.source_names[source]] += stream.phases[phase].sequence_length
    assert stream.positions(sample) == expected
    sizes = stream._corpus.num_train_tokens
    assert stream.epochs(sample) == {name: drawn / (sizes[name] - 1) for name, drawn in expected.items()}


@settings(max_examples=30)
@given(streams(), st.data())
def test_phases_added_later_leave_earlier_samples_alone(stream, data):
    kept = data.draw(st.integers(1, len(stream.phases)))
    shorter = TokenStream(stream._corpus, stream.phases[:kept], stream.seed, stream.shuffle_block_tokens)
    last = shorter.num_samples
    assert shorter.digest(0, last) == stream.digest(0, last)
    assert shorter.positions(last) == stream.positions(last)
    samples = samples_of(stream, kept - 1)
    assert np.array_equal(shorter.read(samples).inputs_BT, stream.read(samples).inputs_BT)


def two_phases(**changed):
    sizes = {"code/c": 500, "english/web": 3_000}
    phases = [
        StreamPhase(num_samples=70_000, sequence_length=8, weights={"code/c": 0.25, "english/web": 0.75}),
        StreamPhase(num_samples=50, sequence_length=16, weights={"code/c": 1.0}),
    ]
    return TokenStream(FakeCorpus(sizes), phases, **{"seed": 5, "shuffle_block_tokens": 64, **changed})


def test_digest_covers_its_range_and_all_that_decides_it():
    stream = two_phases()
    assert stream.digest(10, 70_040) == two_phases().digest(10, 70_040)
    others = [
        stream.digest(11, 70_040),
        stream.digest(10, 70_039),
        two_phases(seed=6).digest(10, 70_040),
        two_phases(shuffle_block_tokens=65).digest(10, 70_040),
    ]
    assert len({stream.digest(10, 70_040), *others}) == 5


def test_the_order_is_fixed_for_ever():
    """A change here changes the data of every run that resumes."""
    stream = two_phases()
    assert stream.read([0, 1, 69_999]).inputs_BT[:, 0].tolist() == [576, 192, 1028]
    assert stream.digest(0, stream.num_samples) == "d5d047b81b558eace61384edffe7536403870b3a067e7766c706fae2416cb76e"


def test_epochs_are_shuffled_apart():
    phase = StreamPhase(num_samples=20, sequence_length=100, weights={"code/c": 1.0})
    stream = TokenStream(FakeCorpus({"code/c": 1_001}), [phase], 0, 10)
    inputs_BT = stream.read(range(20)).inputs_BT
    first, second = inputs_BT[:10].ravel(), inputs_BT[10:].ravel()
    assert sorted(first) == sorted(second) == list(range(1_000))
    assert (first == second).mean() < 0.1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "read needs at least one sample"),
        ([70_050], "sample 70050 is outside the timeline of 70050 samples"),
        ([-1], "sample -1 is outside the timeline of 70050 samples"),
        ([69_999, 70_000], "samples 69999 to 70000 lie in several phases: read each phase apart"),
    ],
)
def test_reading_outside_is_refused(samples, message):
    with pytest.raises(ValueError) as error:
        two_phases().read(samples)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        (
            {"a/b": 1},
            {"a/b": 1.0},
            "source 'a/b' has 1 training token(s), fewer than the 2 that one (input, target) pair needs: "
            "give it weight 0 or more text",
        ),
        (
            {"a/b": 9},
            {"a/c": 1.0},
            "source 'a/c' has a weight but no training tokens in this corpus: "
            "remove it from the blend or prepare a corpus that has it",
        ),
        ({"a/b": 9}, {"a/b": 0.9}, "phase weights must lie in [0, 1] and sum to 1, but sum to 0.9: correct the blend"),
    ],
)
def test_impossible_sources_are_refused(sizes, weights, message):
    with pytest.raises(ValueError) as error:
        TokenStream(FakeCorpus(sizes), [StreamPhase(num_samples=1, sequence_length=4, weights=weights)], 0, 16)
    assert str(error.value) == message


def test_a_small_source_without_weight_is_no_obstacle():
    phase = StreamPhase(num_samples=2, sequence_length=4, weights={"a/b": 0.0, "a/c": 1.0})
    stream = TokenStream(FakeCorpus({"a/b": 1, "a/c": 9}), [phase], 0, 16)
    assert stream.positions(2) == {"a/b": 0, "a/c": 8}
