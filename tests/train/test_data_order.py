"""The content of global batch k, whatever the ranks, ramps, blend changes and restarts."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron4_data import StreamPhase, TokenStream
from nemotron4_train.lightning.data import StepDataset
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape, Timeline

NAMES = ("code/c", "english/books", "english/web", "multilingual/de")


class CountingCorpus:
    """Token t of a source is t itself, so that a batch shows where it was read."""

    def __init__(self, sizes):
        self.num_train_tokens = sizes

    def train(self, source):
        return np.arange(self.num_train_tokens[source], dtype=np.int32)


@st.composite
def runs(draw):
    """A timeline of random batch and length ramps and blend changes, and the stream that it draws from."""
    sizes = {name: draw(st.integers(2, 3_000)) for name in NAMES}
    phases, blends = {}, {}
    for number in range(draw(st.integers(1, 4))):
        raw = {name: draw(st.sampled_from([0, 0, 1e-6, 0.1, 0.5, 1])) for name in NAMES}
        raw[draw(st.sampled_from(NAMES))] += 1
        blends[f"blend {number}"] = {name: value / sum(raw.values()) for name, value in raw.items()}
        batch = draw(st.one_of(st.integers(1, 512), st.sampled_from([256, 384, 512, 1024])))
        length = draw(st.integers(1, 24))
        phases[f"phase {number}"] = Phase(
            tokens=batch * length * draw(st.integers(1, 3)),
            blend=draw(st.sampled_from(sorted(blends))),
            global_batch_size=batch,
            sequence_length=length,
            learning_rate=LearningRate(shape=Shape.constant, end_fraction=1.0),
        )
    timeline = Timeline(Schedule(phases=phases))
    return timeline, lambda: TokenStream(
        CountingCorpus(sizes),
        [
            StreamPhase(
                num_samples=plan.num_samples,
                sequence_length=plan.phase.sequence_length,
                weights=blends[plan.phase.blend],
            )
            for plan in timeline.phases
        ],
        seed=3,
        shuffle_block_tokens=48,
    )


@settings(max_examples=40, deadline=None)
@given(runs(), st.data())
def test_every_number_of_ranks_and_every_restart_reads_the_same_global_batch(run, data):
    timeline, make_stream = run
    whole, next_sample = make_stream(), 0
    pairs = {name: [] for name in NAMES}
    for step in range(timeline.num_steps):
        batch = timeline.step(step).global_batch_size
        ranks = data.draw(st.sampled_from([n for n in range(1, 513) if batch % n == 0]))
        stream = make_stream()  # as after a restart: nothing is carried over but the step
        shares = [StepDataset(stream, timeline, rank, ranks)[step] for rank in range(ranks)]
        expected = whole.read(range(next_sample, next_sample + batch))
        next_sample += batch
        for name in ("inputs_BT", "targets_BT", "sources_B"):
            found = torch.cat([share[name] for share in shares]).numpy()
            assert np.array_equal(found, getattr(expected, name))
        for source, inputs_T in zip(expected.sources_B.tolist(), expected.inputs_BT, strict=True):
            pairs[whole.source_names[source]].append(inputs_T)
    assert next_sample == whole.num_samples
    for name, rows in pairs.items():
        check_once_an_epoch(np.concatenate([*rows, np.zeros(0, dtype=np.int64)]), whole, name)


def check_once_an_epoch(inputs, stream, name):
    """No pair comes again before its epoch is over, and a whole epoch has them all."""
    per_epoch = stream._corpus.num_train_tokens[name] - 1
    assert len(inputs) == stream.positions(stream.num_samples)[name]
    for start in range(0, len(inputs), per_epoch):
        part = inputs[start : start + per_epoch]
        assert len(np.unique(part)) == len(part)
        assert part.max() < per_epoch


@settings(max_examples=25, deadline=None)
@given(runs())
def test_at_every_prefix_of_a_blend_each_source_is_within_a_block_of_its_weight(run):
    stream, first = run[1](), 0
    for phase in stream.timeline(stream.num_samples):
        drawn, asked = dict.fromkeys(range(len(NAMES)), 0), dict.fromkeys(NAMES, 0.0)
        for source, _ in stream.entries(first, first + phase.num_samples).tolist():
            drawn[source] += phase.sequence_length
            for index, name in enumerate(stream.source_names):
                asked[name] += phase.weights.get(name, 0.0) * phase.sequence_length
                assert abs(drawn[index] - asked[name]) < stream.shuffle_block_tokens
        first += phase.num_samples
