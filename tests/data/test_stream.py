"""The order of training data: every pair once per epoch, whatever the blend, lengths, batches, ranks and restarts."""

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
def test_each_pair_comes_exactly_once_per_epoch(stream):
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
def test_a_batch_does_not_depend_on_how_it_is_split(stream, data):
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
def test_phases_added_later_do_not_change_earlier_samples(stream, data):
    kept = data.draw(st.integers(1, len(stream.phases)))
    shorter = TokenStream(stream._corpus, stream.phases[:kept], stream.seed, stream.shuffle_block_tokens)
    last = shorter.num_samples
    assert shorter.entries(0, last).tolist() == stream.entries(0, last).tolist()
    assert shorter.timeline(last) == stream.timeline(last)
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


def test_a_batch_ramp_does_not_change_the_order():
    """Phases with one blend and length draw as one, so a step's batch size does not affect what comes next."""
    blend = {"code/c": 0.25, "english/web": 0.75}
    cuts = [StreamPhase(num_samples=n, sequence_length=8, weights=blend) for n in (1, 30, 9)]
    whole = [StreamPhase(num_samples=40, sequence_length=8, weights={"english/books": 0.0, **blend})]
    sizes = {"code/c": 500, "english/books": 9, "english/web": 3_000}
    ramped, plain = (TokenStream(FakeCorpus(sizes), phases, 5, 64) for phases in (cuts, whole))
    assert ramped.entries(0, 40).tolist() == plain.entries(0, 40).tolist()
    assert np.array_equal(ramped.read(range(40)).inputs_BT, plain.read(range(40)).inputs_BT)
    assert ramped.timeline(35) == plain.timeline(35)
    assert ramped.positions(40) == plain.positions(40)


@settings(max_examples=40)
@given(streams())
def test_entries_are_where_the_samples_are_read(stream):
    next_position = dict.fromkeys(range(len(stream.source_names)), 0)
    entries = stream.entries(0, stream.num_samples).tolist()
    lengths = [phase.sequence_length for phase in stream.phases for _ in range(phase.num_samples)]
    for (source, position), length in zip(entries, lengths, strict=True):
        assert position == next_position[source]
        next_position[source] += length
    cut = stream.num_samples // 2
    assert [*stream.entries(0, cut).tolist(), *stream.entries(cut, stream.num_samples).tolist()] == entries


def test_entries_outside_are_refused():
    with pytest.raises(ValueError) as error:
        two_phases().entries(5, 70_051)
    assert str(error.value) == "samples 5 to 70051 are not a range of the timeline of 70050 samples"


def test_the_order_never_changes():
    """A change here changes the data of every run that resumes."""
    stream = two_phases()
    assert stream.read([0, 1, 69_999]).inputs_BT[:, 0].tolist() == [576, 192, 1028]
    assert stream.entries(69_998, 70_002).tolist() == [(1, 419_984), (1, 419_992), (0, 140_000), (0, 140_016)]
    assert stream.positions(stream.num_samples) == {"code/c": 140_800, "english/web": 420_000}


@pytest.mark.parametrize("sample", [0, 10**6 // 4096, 7 * 10**12 // 4096, (1 << 38) - 100])
def test_far_samples_are_the_next_of_their_sources(sample):
    """Random access at token 7e12: samples there continue from the positions that the closed form gives."""
    sizes = {f"multilingual/{number}": 40 + 7 * number for number in range(50)} | {"english/web": 10_000}
    weights = {name: 0.7 if name == "english/web" else 0.3 / 50 for name in sizes}
    phases = [StreamPhase(num_samples=1 << 38, sequence_length=4096, weights=weights)]
    stream = TokenStream(FakeCorpus(sizes), phases, 1, 64)
    before, after = stream.positions(sample), stream.positions(sample + 100)
    for source, position in stream.entries(sample, sample + 100).tolist():
        name = stream.source_names[source]
        assert before[name] == position
        before[name] += 4096
    assert before == after
    assert stream.read([sample + 99]).inputs_BT.shape == (1, 4096)


def test_epochs_are_shuffled_differently():
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
        ([69_999, 70_000], "samples 69999 to 70000 lie in several phases: read each phase separately"),
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
            "source (a/b): has 1 training token(s), fewer than the 2 that one (input, target) pair needs; "
            "give it weight 0 or more text",
        ),
        (
            {"a/b": 9},
            {"a/c": 1.0},
            "source (a/c): has a weight but no training tokens in this corpus; "
            "remove it from the blend or prepare a corpus that has it",
        ),
        ({"a/b": 9}, {"a/b": 0.9}, "phase weights: must lie in [0, 1] and sum to 1, but sum to 0.9; correct the blend"),
    ],
)
def test_impossible_sources_are_refused(sizes, weights, message):
    with pytest.raises(ValueError) as error:
        TokenStream(FakeCorpus(sizes), [StreamPhase(num_samples=1, sequence_length=4, weights=weights)], 0, 16)
    assert str(error.value) == message


def test_a_small_source_without_weight_is_accepted():
    phase = StreamPhase(num_samples=2, sequence_length=4, weights={"a/b": 0.0, "a/c": 1.0})
    stream = TokenStream(FakeCorpus({"a/b": 1, "a/c": 9}), [phase], 0, 16)
    assert stream.positions(2) == {"a/b": 0, "a/c": 8}


def test_documents_are_packed_and_end_where_eos_says(corpus):
    """Rows of any length hold whole documents and parts, and EOS ends each one: all that masking needs."""
    source = "english/web"
    shard = corpus.shard(source, "train")
    phases = [StreamPhase(num_samples=9, sequence_length=length, weights={source: 1.0}) for length in (16, 48, 128)]
    stream = TokenStream(corpus, phases, 1, len(shard.tokens))  # one block: the order of the shard
    inputs = np.concatenate([stream.read(samples_of(stream, phase)).inputs_BT.ravel() for phase in range(3)])
    ends = np.flatnonzero(inputs == corpus.tokenizer.eos_id) + 1
    assert len(ends) >= 2
    assert ends.tolist() == shard.offsets[1 : len(ends) + 1].tolist()
    for start, end, document in zip([0, *ends[:-1]], ends, range(len(ends)), strict=True):
        assert inputs[start:end].tolist() == shard[document].tolist()
