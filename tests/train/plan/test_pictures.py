"""The picture of a plan: its bars, what they are compared with, and that nothing in it overlaps."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from composed import composed

from nemotron4_train.estimates.layout import layout_of
from nemotron4_train.estimates.memory import Memory
from nemotron4_train.estimates.step_time import StepTime
from nemotron4_train.launching.legs import legs
from nemotron4_train.machine import load_machine
from nemotron4_train.plan.estimate import Estimate, LegEstimate, PhaseEstimate, estimate
from nemotron4_train.plan.failures import CheckpointCost
from nemotron4_train.plan.pictures import memory_bars, plan_picture, time_bars

GB = 1_000_000_000
MEMORY = Memory(
    parameters=GB, gradients=GB, optimizer=2 * GB, activations=20 * GB, logits=GB, gathered=GB, allowance=2 * GB,
    host=4 * GB,
)  # fmt: skip
TIME = StepTime({"matrix products": 0.3, "attention": 0.05, "tensor communication": 0.2, "fixed": 0.001, "scale": 0.03})

CHECKPOINT = CheckpointCost(total_bytes=GB, pause_seconds=1, write_seconds=1, is_asynchronous=True)


def estimate_of(job, machine="h100_sxm", memory=MEMORY, time=TIME, published=0.6):
    """An estimate in which all phases of a leg are alike, and each leg takes a little more than the one before."""
    plans = {plan.name: plan for plan in job.timeline().phases}
    found = []
    for index, leg in enumerate(legs(job)):
        of_leg = replace(memory, activations=memory.activations + index * GB)
        phases = tuple(
            PhaseEstimate(
                name=name, layout=layout_of(job, plans[name].phase, leg.topology), num_steps=plans[name].num_steps,
                num_tokens=plans[name].num_tokens, num_checkpoints=1, memory=of_leg, time=time,
                mfu=0.4 if time else None, published_seconds=published,
            )
            for name in leg.phases
        )  # fmt: skip
        known = load_machine(machine) if machine else None
        found.append(
            LegEstimate(
                name=leg.name, topology=leg.topology, machine=known, phases=phases, checkpoint=CHECKPOINT, failures=None
            )
        )
    return Estimate(legs=tuple(found), comparisons=(), price_per_gpu_hour=None)


@pytest.fixture(scope="module")
def campaign():
    return composed("plan", "experiment=nemotron4_15b_campaign")


def test_phases_that_do_not_differ_share_a_bar(campaign):
    names = ["warmup-batch_384", "batch_768", "batch_1152-continued_qa"]
    known = estimate_of(campaign)
    for panel in (memory_bars(known), time_bars(known)):
        assert [bar.name.splitlines()[0] for bar in panel.bars] == names
    assert memory_bars(known).bars[0].name.endswith("768 ranks: 12 x 8 x 8")
    first, *_, last = known.legs[-1].phases
    changed = replace(last, time=StepTime({"matrix products": 0.9}))
    leg = replace(known.legs[-1], phases=(first, changed))
    apart = replace(known, legs=(leg,))
    assert len(time_bars(apart).bars) == 2
    assert len(memory_bars(apart).bars) == 1


def test_bars_add_up_to_the_estimate(campaign):
    known = estimate_of(campaign)
    assert [bar.length for bar in memory_bars(known).bars] == pytest.approx([28, 29, 30])
    assert memory_bars(known).bars[2].note == "30 of 84.9 GB\nhost: 4 GB"
    bar = time_bars(known).bars[0]
    assert bar.length == pytest.approx(TIME.total_seconds)
    assert bar.parts["other"] == 0.001  # too small to be seen by itself
    assert (bar.mark, bar.note) == (0.6, "0.581 s, 40.0% MFU\npublished: 0.6 s (-3.2%)")


def test_every_part_of_a_step_has_a_colour(campaign):
    found = estimate(campaign)
    predicted = {part for leg in found.legs for phase in leg.phases for part in phase.time.seconds}
    assert predicted <= time_bars(found).colours.keys()


def test_what_does_not_fit_is_said(campaign):
    bar = memory_bars(estimate_of(campaign, memory=replace(MEMORY, activations=80 * GB))).bars[0]
    assert bar.is_fault
    assert bar.note == "88 of 84.9 GB: too much\nhost: 4 GB"


def test_without_a_machine_there_is_no_time_and_no_capacity():
    job = composed("plan", "experiment=demo")
    small = Memory(
        parameters=10**7, gradients=10**7, optimizer=10**7, activations=10**8, logits=10**7, gathered=0, allowance=0,
        host=10**7,
    )  # fmt: skip
    known = estimate_of(job, machine=None, memory=small, time=None, published=None)
    assert time_bars(known).bars == []
    (bar,) = memory_bars(known).bars
    assert (bar.mark, bar.note) == (None, "140 MB\nhost: 10 MB")
    figure = plan_picture(job, job.timeline(), known)
    shown = [axis.get_title(loc="left") or axis.get_ylabel() for axis in all_axes(figure)]
    assert shown == [
        "Memory of a rank at the peak of a step, predicted (MB)",
        *("learning rate\n(matrices)", "global batch\n(sequences)", "blend\n(share)"),
    ]


def test_a_capacity_far_beyond_the_bars_is_in_the_notes_alone(campaign):
    small = replace(MEMORY, activations=0, optimizer=0, allowance=0)
    known = estimate_of(campaign, memory=small)
    axis = all_axes(plan_picture(campaign, campaign.timeline(), known))[0]
    assert axis.get_xlim()[1] == pytest.approx(1.02 * 6)
    assert axis.texts[-1].get_text() == "6 of 84.9 GB\nhost: 4 GB"


def test_nothing_overlaps_with_six_legs_and_a_long_name():
    nodes = {"batch_768": 192, "batch_1152": 288, "continued_general": 96, "continued_qa": 288}
    long = "continued_" + "on_questions_and_answers_" * 3
    job = composed(
        "plan", "experiment=nemotron4_15b_continued", *(
            f"+topology@schedule.phases.{phase}.topology=dgx_h100_x{number}" for phase, number in nodes.items()
        ),
        f"+schedule.phases.{long}={{tokens: 100_000_000_000, blend: pretraining, global_batch_size: 1_152,"
        " sequence_length: 4_096}",
    )  # fmt: skip
    parts = time_bars(Estimate(legs=(), comparisons=(), price_per_gpu_hour=None)).colours
    figure = plan_picture(job, job.timeline(), estimate_of(job, time=StepTime(dict.fromkeys(parts, 0.1))))
    figure.draw_without_rendering()
    for axis in all_axes(figure)[:2]:
        texts = [*axis.get_yticklabels(), *axis.texts, axis.title, axis._left_title, *axis.get_legend().get_texts()]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert len(boxes) > 20
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    for above, below in pairwise(all_axes(figure)):
        assert above.get_window_extent().y0 > below.get_window_extent().y1


def all_axes(figure):
    """From top to bottom."""
    return [axis for part in figure.subfigs for axis in part.axes]
