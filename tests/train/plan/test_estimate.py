"""The estimate of a job: legs, days, GPU-hours, cost, checkpoints, and the published steps beside it."""

from dataclasses import replace

import pytest
import torch
from composed import composed

from nemotron4_model.config import ModelConfig
from nemotron4_model.transformer import Transformer
from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.launching.legs import legs
from nemotron4_train.machine import load_machine
from nemotron4_train.optimizers import build_optimizers
from nemotron4_train.plan.estimate import estimate, estimate_step
from nemotron4_train.plan.failures import checkpoint_bytes


@pytest.fixture(scope="module")
def job():
    return composed("plan", "experiment=nemotron4_15b_campaign", "plan.price_per_gpu_hour=2")


@pytest.fixture(scope="module")
def campaign(job):
    return estimate(job)


@pytest.fixture(scope="module")
def on_one_topology():
    return composed("plan", "experiment=nemotron4_15b")


def test_phases_legs_and_the_whole_add_up(campaign):
    assert [leg.topology.num_ranks for leg in campaign.legs] == [768, 1_536, 2_304]
    for leg in campaign.legs:
        seconds = sum(phase.num_steps * phase.time.total_seconds for phase in leg.phases)
        assert leg.step_seconds == pytest.approx(seconds / leg.num_steps)
        assert leg.days == pytest.approx(seconds / 86_400)
        assert leg.gpu_hours == pytest.approx(leg.topology.num_ranks * 24 * leg.days)
    assert campaign.days == pytest.approx(sum(leg.days for leg in campaign.legs))
    assert campaign.cost(campaign.gpu_hours) == 2 * campaign.gpu_hours
    assert sum(phase.num_tokens for leg in campaign.legs for phase in leg.phases) == 8_300_008_046_592
    assert campaign.lost_gpu_hours == pytest.approx(
        sum(24 * leg.topology.num_ranks * leg.failures.own.lost_days for leg in campaign.legs)
    )


def test_mfu_is_that_of_all_tokens_in_all_the_time(campaign):
    model = ModelConfig.preset("nemotron4_15b")
    for leg in campaign.legs:
        tokens = sum(phase.num_tokens for phase in leg.phases)
        peak = load_machine("h100_sxm").peak_teraflops["bf16"] * 1e12 * leg.topology.num_ranks
        assert leg.mfu == pytest.approx(tokens * model.flops_per_token(4_096) / (leg.days * 86_400 * peak))


def test_a_leg_of_several_batches_is_known_by_its_mean_step_and_its_largest_memory(on_one_topology):
    (leg,) = estimate(on_one_topology).legs
    steps = {phase.layout.global_batch_size: phase for phase in leg.phases}
    assert list(steps) == [384, 768, 1_152]
    assert steps[384].time.total_seconds < leg.step_seconds < steps[1_152].time.total_seconds
    assert leg.memory.total == max(phase.memory.total for phase in leg.phases)
    assert leg.memory.total >= steps[384].memory.total


def test_max_steps_cuts_the_run_short(job, campaign):
    cut = estimate(replace(job, trainer=replace(job.trainer, max_steps=150_000)))
    assert [leg.num_steps for leg in cut.legs] == [127_158, 150_000 - 127_158]
    assert cut.legs[0].days == campaign.legs[0].days
    assert cut.legs[1].step_seconds == campaign.legs[1].step_seconds


@pytest.mark.parametrize("keep_phase_ends", [True, False])
@pytest.mark.parametrize("max_steps", [None, 20_000])
def test_checkpoints_are_counted_as_they_are_saved(job, keep_phase_ends, max_steps):
    trainer = replace(job.trainer, save_interval_steps=1_000, keep_phase_ends=keep_phase_ends, max_steps=max_steps)
    job = replace(job, trainer=trainer)
    found, timeline = estimate(job), job.timeline()
    ends = {min(plan.first_step + plan.num_steps, timeline.num_steps) for plan in timeline.phases}
    if not keep_phase_ends:
        ends = {leg.end_step for leg in legs(job)}
    saved = ends | set(range(1_000, timeline.num_steps + 1, 1_000))
    assert found.num_checkpoints == len(saved)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_a_checkpoint_has_the_bytes_of_weights_and_optimiser(kind):
    model = ModelConfig.preset("nano_1m")
    weights = Transformer(model)
    optimizers = build_optimizers(weights, OptimizerConfig(kind=kind))
    for parameter in weights.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tensors = list(weights.parameters())
    for optimizer in optimizers:
        optimizer.step()
        tensors += [each for state in optimizer.state.values() for each in state.values() if each.ndim > 0]
    assert checkpoint_bytes(model, kind) == sum(4 * each.numel() for each in tensors)


def test_the_reports_three_rows_stand_beside_predictions_of_its_recipe_and_of_ours(campaign):
    rows = campaign.comparisons
    published = [(row.published.layout.num_devices, row.published.seconds, row.published.mfu) for row in rows]
    assert published == [(768, 0.57, 0.343), (1_536, 0.58, 0.333), (2_304, 0.64, 0.305)]
    assert campaign.published_days == pytest.approx(13.1)
    for row, leg in zip(rows, campaign.legs, strict=True):
        published_mfu = row.theirs.mfu * row.theirs.time.total_seconds / row.published.seconds
        assert published_mfu == pytest.approx(row.published.mfu, abs=0.003)  # the definition of MFU is the report's
        assert row.ours == leg.phases[0]
        assert {phase.published_seconds for phase in leg.phases} == {row.published.seconds}
        of_published = row.theirs.time.total_seconds / row.published.seconds
        assert row.days(row.theirs) == pytest.approx(row.published.days * of_published, rel=0.1)


def test_without_a_machine_memory_alone_is_known(on_one_topology):
    found = estimate(replace(on_one_topology, topology=replace(on_one_topology.topology, machine=None)))
    assert (found.days, found.gpu_hours, found.lost_days, found.comparisons) == (None, None, None, ())
    assert found.legs[0].memory.total > 0
    assert found.legs[0].failures is None


def test_a_peak_of_ones_own_is_what_mfu_is_a_fraction_of(on_one_topology):
    found = estimate(replace(on_one_topology, topology=replace(on_one_topology.topology, peak_teraflops=100.0)))
    usual = estimate(on_one_topology)
    assert found.legs[0].mfu == pytest.approx(usual.legs[0].mfu * 9.894)
    assert found.days == usual.days


def test_more_ranks_a_node_than_it_has_devices_are_refused(on_one_topology):
    topology = replace(on_one_topology.topology, num_nodes=48)
    with pytest.raises(ValueError) as caught:
        estimate(replace(on_one_topology, topology=topology))
    assert str(caught.value) == (
        "topology.num_nodes (48): gives 16 ranks a node, but h100_sxm has 8 devices a node; nearest: 96"
    )


def test_a_step_is_estimated_without_a_job(campaign):
    phase = campaign.legs[0].phases[0]
    alone = estimate_step(ModelConfig.preset("nemotron4_15b"), phase.layout, load_machine("h100_sxm"))
    assert (alone.time, alone.memory, alone.mfu) == (phase.time, phase.memory, phase.mfu)
