"""Published steps: the rows say what the sources say, and a plan finds those of its own experiment."""

from dataclasses import replace

import pytest

from nemotron4_model.config import ModelConfig, Recompute
from nemotron4_model.dtype import DType
from nemotron4_train.estimates.layout import Sharding
from nemotron4_train.estimates.published import published_memory, published_step, published_steps
from nemotron4_train.estimates.reached import Reached
from nemotron4_train.estimates.stack import Attention
from nemotron4_train.estimates.step_time import mfu
from nemotron4_train.job import Precision
from nemotron4_train.machine import load_machine

STEPS = published_steps()
TABLE_2 = [step for step in STEPS if step.source == "nemotron4"]


def test_only_the_15b_s_bf16_rows_of_tensor_2_and_4_are_fitted():
    fitted = [step for step in STEPS if step.is_fitted]
    assert len(fitted) == 16
    assert {step.layout.tensor for step in fitted} == {2, 4}
    assert {step.layout.compute for step in fitted} == {Precision.bf16}
    assert {step.model.num_layers for step in fitted} == {32}


def test_table_2_is_the_paper_s():
    assert [step.layout.num_devices for step in TABLE_2] == [768, 1536, 2304]
    assert [step.layout.global_batch_size for step in TABLE_2] == [384, 768, 1152]
    assert [step.layout.num_data_ranks for step in TABLE_2] == [96, 192, 288]
    assert [step.num_tokens for step in TABLE_2] == [200e9, 200e9, 7600e9]
    assert {(step.stack.attention, step.layout.reduce) for step in TABLE_2} == {(Attention.flash2, DType.fp32)}
    for step in TABLE_2:
        steps = step.num_tokens / step.layout.tokens_per_step
        assert steps * step.seconds / 86_400 == pytest.approx(step.days, abs=0.05)


def test_the_340b_s_table_is_the_report_s():
    rows = [step for step in STEPS if step.source == "nemotron4_340b"]
    assert [(step.layout.num_data_ranks, step.layout.global_batch_size) for step in rows] == [
        *((16, 768), (32, 1536), (64, 2304)),
    ]
    assert [step.layout.num_micro_batches for step in rows] == [48, 48, 36]


@pytest.mark.parametrize("step", [step for step in STEPS if step.mfu], ids=lambda step: str(step.seconds))
def test_published_mfu_follows_from_published_seconds(step):
    found = mfu(step.model, step.layout, load_machine(step.machine), step.seconds)
    assert found == pytest.approx(step.mfu, abs=0.003)  # seconds are printed to two digits


def test_a_plan_finds_the_published_step_of_its_experiment():
    model, layout = ModelConfig.preset("nemotron4_15b"), TABLE_2[2].layout
    ours = replace(layout, sharding=Sharding.fsdp, micro_batch_size=1, recompute=Recompute.full, reduce=DType.bf16)
    found = published_step(model, ours)
    assert (found.seconds, found.days) == (0.64, 11.9)
    assert published_step(replace(model, max_sequence_length=8192, init_std=0.01), ours) is found
    for other in (
        replace(ours, compute=Precision.fp8),
        replace(ours, global_batch_size=2304),
        replace(ours, sequence_length=2048),
        replace(ours, tensor=4, shard=576),
    ):
        assert published_step(model, other) is None
    assert published_step(ModelConfig.preset("minitron_8b"), ours) is None


def test_published_memory_has_its_layout():
    (row,) = published_memory()
    assert (row.layout.num_devices, row.layout.tensor, row.layout.num_data_ranks) == (64, 2, 32)
    assert (row.allocated_gigabytes, row.layout.reduce) == (34.47, DType.bf16)


def test_shipped_constants_are_those_that_fit_best():
    from nemotron4_train.estimates.calibration import FITTED, calibrated

    best = calibrated()
    assert [getattr(Reached(), name) for name in FITTED] == pytest.approx(
        [getattr(best, name) for name in FITTED], rel=2e-3
    )
