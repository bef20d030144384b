"""One GPU: the goals that the roofline rests on come out of it, memory is the engine's, and better is never slower."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron4_infer.engine_config import EngineConfig, Quantisation
from nemotron4_infer.plan import plan_memory
from nemotron4_model import DType, ModelConfig
from nemotron4_train.machine import load_machine
from nemotron4_train.plan.inference import FORMATS, cells, one_gpu, prompt_seconds, step_seconds

MODEL = ModelConfig.preset("nemotron4_15b")
H100, A100 = load_machine("h100_sxm"), load_machine("a100_80g")


@pytest.mark.parametrize(("weights", "goal"), [(None, 97), (Quantisation.fp8, 180), (Quantisation.int4, 300)])
def test_the_goals_for_one_sequence(weights, goal):
    """docs/performance.md, in tokens a second on an H100."""
    service = one_gpu(MODEL, H100, weights).service
    assert service.tokens_per_second_of_one == pytest.approx(goal, rel=0.01)


def test_the_goals_for_many_sequences_and_a_prompt():
    service = one_gpu(MODEL, H100, None).service
    assert service.sequences == 64
    assert service.tokens_per_second_of_all == pytest.approx(3_600, rel=0.01)
    assert prompt_seconds(MODEL, H100, None, 2_048) == pytest.approx(0.0754, rel=0.01)
    assert prompt_seconds(MODEL, H100, Quantisation.fp8, 2_048) == pytest.approx(0.0377, rel=0.01)


@pytest.mark.parametrize("weights", FORMATS)
def test_memory_is_what_the_engine_plans(weights):
    found = one_gpu(MODEL, H100, weights)
    plan = plan_memory(
        MODEL,
        EngineConfig(cache_tokens=found.service.cache_tokens),
        dtype=DType.bf16,
        quantization=weights,
        device="cuda",
        free_bytes=int(H100.memory_gigabytes * 1e9),
    )
    assert plan.weights_bytes == found.weights_bytes
    assert 0 <= plan.free_bytes - plan.weights_bytes - plan.workspace_bytes - plan.cache_bytes < 256 * plan.token_bytes


def test_the_title_s_claim():
    """One A100 or H100 is enough: it fits in bf16 beside dozens of whole contexts."""
    for machine in (A100, H100):
        assert one_gpu(MODEL, machine, None).service.cache_tokens > 64 * MODEL.max_sequence_length


def test_what_does_not_work_says_why():
    assert one_gpu(MODEL, A100, Quantisation.fp8).problem == "no fp8 products"
    large = one_gpu(ModelConfig.preset("nemotron4_340b"), H100, None)
    assert (large.problem, large.service) == ("does not fit", None)
    assert cells([large]).rows[0][3] == "does not fit"
    assert "81% in bf16, 75% in fp8, 75% in int8, 67% in int4" in cells([large]).caption
    small = dataclasses.replace(A100, memory_gigabytes=40)
    assert one_gpu(MODEL, small, None).service.sequences < 64
    assert "fit)" in cells([one_gpu(MODEL, small, None)]).rows[0][6]


@given(st.sampled_from(FORMATS), st.integers(1, 512), st.integers(0, 8_192), st.floats(1, 10), st.floats(1, 10))
def test_a_better_machine_and_less_work_are_never_slower(weights, sequences, context, bandwidth, products):
    asked = {"sequences": sequences, "context_tokens": context}
    now = step_seconds(MODEL, H100, weights, **asked)
    better = dataclasses.replace(
        H100,
        memory_gigabytes_per_second=H100.memory_gigabytes_per_second * bandwidth,
        peak_teraflops={key: peak * products for key, peak in H100.peak_teraflops.items()},
    )
    assert step_seconds(MODEL, better, weights, **asked) <= now * (1 + 1e-12)
    assert now / step_seconds(MODEL, better, weights, **asked) <= max(bandwidth, products) * (1 + 1e-12)
    assert step_seconds(MODEL, H100, weights, sequences=sequences, context_tokens=context + 1) >= now
    assert step_seconds(MODEL, H100, weights, sequences=sequences + 1, context_tokens=context) >= now
    rate = sequences / now
    if sequences > 1:
        more = step_seconds(MODEL, H100, weights, sequences=sequences + 1, context_tokens=context)
        assert (sequences + 1) / more >= rate * (1 - 1e-12)


def test_it_needs_no_torch():
    code = "import sys, nemotron4_train.plan.on_request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
