"""The guard's arithmetic, without a model."""

import json
import math
import random
from dataclasses import asdict

import pytest

from nemotron4_train.job import TrainerConfig
from nemotron4_train.step_guard import GuardState, StepGuard


def guard(**config):
    return StepGuard(TrainerConfig(**({"spike_window_steps": 4, "spike_sigma": 3.0} | config)), GuardState())


def filled(**config):
    """A guard whose window holds losses of mean 2 and sigma 0.5, norms of mean 1 and sigma 0."""
    found = guard(**config)
    for loss in (1.5, 2.5, 1.5, 2.5):
        assert found.refuse("main", loss, 1.0) is None
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(value):
    assert guard(spike_sigma=None).refuse("main", value, 1.0) == f"loss {value}"
    assert guard(spike_sigma=None).refuse("main", 2.0, value) == f"gradient norm {value}"


def test_a_spike_is_what_lies_above_the_mean_by_more_than_so_many_sigma():
    assert filled().refuse("main", 3.49, 1.0) is None
    assert filled().refuse("main", 3.51, 1.0) == "loss 3.51 is more than 3 sigma of 0.5 above 2"
    assert filled().refuse("main", -100.0, 0.0) is None
    assert filled(spike_sigma=None).refuse("main", 1e30, 1e30) is None


def test_sigma_is_never_taken_for_less_than_a_part_of_the_mean():
    """Of the norm the whole, of the loss a twentieth: a run at rest is not one where every step is a spike."""
    assert filled().refuse("main", 2.0, 3.99) is None
    assert filled().refuse("main", 2.0, 4.01) == "gradient norm 4.01 is more than 3 sigma of 1 above 1"
    for loss, refused in ((2.29, False), (2.31, True)):
        still = guard()
        for _ in range(4):
            still.refuse("main", 2.0, 0.0)
        assert (still.refuse("main", loss, 0.0) is not None) == refused


def test_no_spike_is_seen_until_the_window_is_full_and_a_phase_starts_a_new_one():
    found = guard()
    for loss in (1.5, 2.5, 1.5, 50.0):
        assert found.refuse("main", loss, 1.0) is None
    found = filled()
    for loss in (9.0, 9.1, 9.0, 9.1):
        assert found.refuse("continued", loss, 8.0) is None
    assert found.state.losses == [9.0, 9.1, 9.0, 9.1]


def test_the_window_holds_the_last_accepted_steps_alone():
    found = filled()
    assert found.refuse("main", 9.0, 1.0) is not None
    assert found.refuse("main", 2.0, 50.0) is not None
    assert found.state.losses == [1.5, 2.5, 1.5, 2.5]
    assert found.refuse("main", 2.25, 1.125) is None
    assert (found.state.losses, found.state.grad_norms) == ([2.5, 1.5, 2.5, 2.25], [1.0, 1.0, 1.0, 1.125])


def test_an_accepted_step_ends_the_row_but_not_the_count():
    found = filled(max_skipped_steps_in_a_row=2)
    found.refuse("main", math.nan, 1.0)
    assert not found.exhausted
    found.refuse("main", 2.0, 1.0)
    found.refuse("main", math.nan, 1.0)
    assert not found.exhausted
    found.refuse("main", 9.0, 1.0)
    assert found.exhausted
    assert found.state.num_skipped == 3


def test_the_state_of_a_checkpoint_decides_as_the_guard_that_wrote_it():
    rng = random.Random(0)
    steps = [("main", rng.gauss(2, 0.1) + 5 * (rng.random() < 0.1), rng.lognormvariate(0, 0.8)) for _ in range(400)]
    one, other, verdicts = guard(), guard(), []
    for step in steps:
        other = StepGuard(other.config, GuardState(**json.loads(json.dumps(asdict(other.state)))))
        verdicts.append(one.refuse(*step))
        assert other.refuse(*step) == verdicts[-1]
    assert other.state == one.state
    assert 10 < sum(reason is not None for reason in verdicts) < 200


def test_the_diagnosis_says_what_was_seen_and_what_to_try():
    found = filled(max_skipped_steps_in_a_row=2)
    found.refuse("main", math.nan, math.nan)
    reason = found.refuse("main", 9.0, 2.0)
    assert found.diagnosis(7, reason, {"code/c": 2.0, "english/web": 16.0}, {"head.weight": 4.0, "norm": 3.0}) == (
        "step 7 (main): loss 9 is more than 3 sigma of 0.5 above 2; 2 steps in a row were skipped, as many as"
        " trainer.max_skipped_steps_in_a_row allows\n"
        "mean and sigma of the last 4 accepted steps: loss 2 and 0.5, gradient norm 1 and 0\n"
        "loss by source: code/c 2, english/web 16\n"
        "largest gradients, as fractions of the norm: head.weight 0.800, norm 0.600\n"
        "the weights are those of the last accepted step, and the checkpoints are intact; run the same command to"
        " retry from the newest (a hardware fault does not repeat itself), with a larger"
        " trainer.max_skipped_steps_in_a_row to skip more data, or start another run from a checkpoint"
        " (resume=PATH) with a lower optimizer.lr, or optimizer.muon_lr with Muon"
    )


def test_the_diagnosis_names_gradients_that_are_not_finite():
    found = guard(max_skipped_steps_in_a_row=1)
    reason = found.refuse("main", math.nan, math.nan)
    norms = {f"blocks.{i}": math.nan if i % 2 else 1.0 for i in range(14)}
    lines = found.diagnosis(1, reason, {}, norms).splitlines()
    assert lines[1] == "no step of this phase was accepted"
    names = ", ".join(f"blocks.{i}" for i in range(1, 10, 2))
    assert lines[3] == f"gradients that are not finite: {names} and 2 more (of 14)"
