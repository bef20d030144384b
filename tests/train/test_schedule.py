import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape, Timeline


def phase(tokens, batch, length=8, rate=None, blend="pretraining"):
    return Phase(tokens=tokens, blend=blend, global_batch_size=batch, sequence_length=length, learning_rate=rate)


WARMUP = LearningRate(shape=Shape.linear, end_fraction=1.0)
COSINE = LearningRate(shape=Shape.cosine, end_fraction=0.1)


def nemotron4_8t():
    return Schedule(
        phases={
            "warmup": phase(16_000_000_000, 384, 4096, WARMUP),
            "batch_384": phase(184_000_000_000, 384, 4096, COSINE),
            "batch_768": phase(200_000_000_000, 768, 4096),
            "batch_1152": phase(7_600_000_000_000, 1152, 4096),
        }
    )


def test_the_8t_timeline_has_the_paper_s_steps_and_rates():
    timeline = Timeline(nemotron4_8t())
    steps = [plan.num_steps for plan in timeline.phases]
    # Table 2: 200B at batch 384, 200B at 768, 7.6T at 1152; phases round up to whole steps.
    assert sum(steps[:2]) in (127_157, 127_158)
    assert steps[2:] == [63_579, 1_610_650]
    assert timeline.num_tokens == pytest.approx(8e12, rel=1e-5)
    assert timeline.learning_rate_fraction(8_000_000_000) == pytest.approx(0.5, rel=1e-3)
    assert timeline.learning_rate_fraction(16_000_400_000) == pytest.approx(1.0, rel=1e-4)
    assert timeline.learning_rate_fraction(timeline.num_tokens) == pytest.approx(0.1)
    # One cosine runs through all three batch sizes.
    middle = (timeline.phases[1].first_token + timeline.num_tokens) // 2
    assert timeline.learning_rate_fraction(middle) == pytest.approx(0.55, rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(1_536, 5_000), st.integers(1, 24), st.integers(1, 64)), min_size=1, max_size=5),
    st.data(),
)
def test_steps_tile_samples_and_tokens_without_gaps(phases, data):
    schedule = Schedule(
        phases={f"p{i}": phase(t, b, s, WARMUP if i == 0 else None) for i, (t, b, s) in enumerate(phases)}
    )
    timeline = Timeline(schedule)
    assert timeline.num_tokens == sum(plan.num_tokens for plan in timeline.phases)
    for plan, (tokens, _, _) in zip(timeline.phases, phases, strict=True):
        assert 0 <= plan.num_tokens - tokens < plan.tokens_per_step
    step = data.draw(st.integers(0, timeline.num_steps - 1))
    now = timeline.step(step)
    assert timeline.tokens_before(step + 1) == now.tokens_after
    if step + 1 < timeline.num_steps:
        after = timeline.step(step + 1)
        assert after.first_sample == now.first_sample + now.global_batch_size
        assert after.tokens_after == now.tokens_after + after.global_batch_size * after.sequence_length


def test_max_steps_cuts_the_timeline_without_changing_a_step():
    schedule = Schedule(phases={"a": phase(800, 4, rate=WARMUP), "b": phase(800, 8, rate=COSINE)})
    whole, cut = Timeline(schedule), Timeline(schedule, max_steps=5)
    assert cut.num_steps == 5
    assert cut.num_tokens == whole.tokens_before(5)
    assert [cut.step(k) for k in range(5)] == [whole.step(k) for k in range(5)]


def test_continued_training_starts_where_pretraining_ended_and_reaches_a_fifth_at_71_percent():
    # arXiv 2407.07263: no re-warming, cosine to 1/100; eta/5 is reached at 71.1 % of the run.
    schedule = Schedule(
        phases={
            "main": phase(10_000, 1, 1, LearningRate(shape=Shape.cosine, start_fraction=1.0, end_fraction=0.1)),
            "general": phase(71_100, 1, 1, LearningRate(shape=Shape.cosine, end_fraction=0.001)),
            "qa": phase(28_900, 1, 1),
        }
    )
    timeline = Timeline(schedule)
    assert timeline.learning_rate_fraction(10_001) == pytest.approx(0.1, rel=1e-3)
    assert timeline.learning_rate_fraction(10_000 + 71_100) == pytest.approx(0.02, rel=5e-3)
    assert timeline.learning_rate_fraction(110_000) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule(phases={"a": phase(0, 1, rate=WARMUP)}), "schedule.phases.a.tokens (0): must be at least 1"),
        (
            lambda: Schedule(phases={"a": phase(8, 1)}),
            "schedule.phases.a.learning_rate (null): the first phase must start a segment; give it shape and"
            " end_fraction",
        ),
        (
            lambda: Schedule(phases={"a": phase(31, 4, 8, WARMUP)}),
            "schedule.phases.a.tokens (31): less than one optimiser step, which is global_batch_size x sequence_length"
            " = 32; raise it",
        ),
        (
            lambda: LearningRate(shape=Shape.constant, start_fraction=0.5, end_fraction=1.0),
            "schedule.phases.*.learning_rate.start_fraction (0.5): a constant rate is end_fraction = 1.0 throughout;"
            " leave start_fraction out, or use shape linear",
        ),
        (
            lambda: LearningRate(shape=Shape.linear, end_fraction=-1.0),
            "schedule.phases.*.learning_rate.end_fraction (-1.0): must be at least 0",
        ),
        (
            lambda: Schedule(phases={"a": phase(64, 1, 64, WARMUP)}, shuffle_block_tokens=127),
            "schedule.shuffle_block_tokens (127): must hold two sequences, so that sources stay within a block of "
            "their weights; raise it to 128 or more",
        ),
        (
            lambda: Timeline(Schedule()),
            "schedule.phases (empty): a run needs at least one phase; choose one with schedule=OPTION",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def test_warmup_stable_decay_holds_its_rate_until_it_falls():
    schedule = Schedule(
        phases={
            "warmup": phase(10, 1, 1, WARMUP),
            "stable": phase(70, 1, 1, LearningRate(shape=Shape.constant, end_fraction=1.0)),
            "decay": phase(20, 1, 1, LearningRate(shape=Shape.linear, end_fraction=0.0)),
        }
    )
    found = [Timeline(schedule).learning_rate_fraction(token) for token in (5, 10, 11, 45, 80, 85, 90, 100)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0])


def test_shapes_meet_their_ends():
    for shape in (Shape.linear, Shape.cosine):
        rate = LearningRate(shape=shape, start_fraction=0.2, end_fraction=0.8)
        timeline = Timeline(Schedule(phases={"a": phase(1000, 1, 1, rate)}))
        assert timeline.learning_rate_fraction(1000) == pytest.approx(0.8)
        assert timeline.learning_rate_fraction(500) == pytest.approx(0.5)
        assert math.isclose(timeline.learning_rate_fraction(1), 0.2, abs_tol=1e-2)
