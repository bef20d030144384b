"""A budget of FLOPs becomes whole steps, once; a sweep over budgets and sizes gives back the law it was made from."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from smoke import smoke_job, smoke_schedule

from nemotron4_config import load_job, render_job
from nemotron4_model import ModelConfig
from nemotron4_train.budget import fit_to_budget, training_flops
from nemotron4_train.job import TrainJob
from nemotron4_train.reporting.report import report_figures
from nemotron4_train.schedule import LearningRate, Phase, Schedule, Shape, Timeline
from nemotron4_train.sweeps.isoflop import IsoflopRun, study
from nemotron4_train.sweeps.isoflop_report import law_lines
from nemotron4_train.sweeps.table import summarise

MODEL = ModelConfig.preset("nano_1m")
SIZES = (67_008, 125_856, 246_912, 505_536, 1_035_008, 1_857_600)
BUDGETS = (1.5e12, 4e12, 1e13, 2.4e13)


def schedule_of(phases, budget=None):
    rate = LearningRate(shape=Shape.linear, end_fraction=1.0)
    built = {
        f"p{i}": Phase(tokens=tokens, blend="b", global_batch_size=batch, sequence_length=length, learning_rate=rate)
        for i, (tokens, batch, length) in enumerate(phases)
    }
    return Schedule(phases=built, budget_flops=budget)


@given(
    st.lists(st.tuples(st.integers(2_000, 10**9), st.integers(1, 24), st.integers(1, 64)), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
)
def test_a_fitted_schedule_costs_its_budget_and_is_fitted_once(phases, stretch):
    budget = stretch * training_flops(Timeline(schedule_of(phases)), MODEL)
    asked = schedule_of(phases, budget)
    cost = sum(tokens * MODEL.flops_per_token(length) for tokens, _, length in phases)
    assume(all(tokens * budget / cost > 2 * batch * length for tokens, batch, length in phases))
    fitted = fit_to_budget(asked, MODEL)
    steps = [batch * length * MODEL.flops_per_token(length) for _, batch, length in phases]
    assert abs(training_flops(Timeline(fitted), MODEL) - budget) <= sum(steps)
    assert fit_to_budget(fitted, MODEL) == fitted
    assert fitted.budget_flops == budget
    for (tokens, batch, length), phase in zip(phases, fitted.phases.values(), strict=True):
        if fitted != asked:
            assert phase.tokens == pytest.approx(tokens * budget / cost, abs=batch * length * 0.501)


def test_a_job_with_a_budget_is_the_same_read_back_and_digested_by_its_phases(tmp_path):
    job = smoke_job(tmp_path, tmp_path, schedule=dataclasses.replace(smoke_schedule(), budget_flops=1e9))
    path = tmp_path / "job.yaml"
    path.write_text(render_job(job))
    assert load_job(path, TrainJob) == job
    assert job.schedule.phases != smoke_schedule().phases
    unasked = dataclasses.replace(job, schedule=dataclasses.replace(job.schedule, budget_flops=None))
    assert unasked.digest() == job.digest()


def test_a_run_s_report_says_what_the_study_reads(tmp_path):
    job = smoke_job(tmp_path, tmp_path, schedule=dataclasses.replace(smoke_schedule(), budget_flops=1e9))
    figures = report_figures(job, Timeline(job.schedule), [], [], {})
    assert figures["budget_flops"] == 1e9
    embedding = job.model.vocab_size * job.model.hidden_size
    assert figures["parameters_without_input_embedding"] == job.model.num_parameters - embedding


def test_flops_follow_max_steps():
    timeline = Timeline(smoke_schedule(), max_steps=5)
    assert training_flops(timeline, MODEL) == (4 * 4 + 8) * 32 * MODEL.flops_per_token(32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: fit_to_budget(schedule_of([(8_192, 4, 64), (81_920, 8, 64)], 1e9), MODEL),
            "schedule.budget_flops (1e+09): leaves phase p0 less than one optimiser step, which is 256 tokens; raise"
            " it to 12_457_082_880 or more, or lower schedule.phases.p0.global_batch_size",
        ),
        (lambda: Schedule(budget_flops=0.0), "schedule.budget_flops (0.0): must be above 0 and finite, or null"),
        (lambda: Schedule(budget_flops=math.inf), "schedule.budget_flops (inf): must be above 0 and finite, or null"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def hoffmann(parameters, tokens, scale_a=482.0, scale_b=2_085.4, a=0.3478, b=0.3658):
    """L(N, D) with the constants of arXiv 2404.10102, whose best size grows as C^(b / (a + b)) = C^0.513."""
    return 1.82 + scale_a / parameters**a + scale_b / tokens**b


def runs_of(sizes=SIZES, budgets=BUDGETS, loss=hoffmann):
    points = [(budget, size, budget / 6 / size) for budget in budgets for size in sizes]
    return [
        IsoflopRun(budget_flops=budget, parameters=size, tokens=round(tokens), bits_per_byte=loss(size, tokens))
        for budget, size, tokens in points
    ]


def test_the_law_that_losses_were_made_from_is_found():
    found = study(runs_of())
    law = found["law"]
    assert law["parameters"]["exponent"] == pytest.approx(0.3658 / 0.7136, abs=0.03)
    assert law["tokens"]["exponent"] == pytest.approx(1 - law["parameters"]["exponent"], abs=1e-3)
    low, high = law["parameters"]["leave_one_out"]
    assert low <= law["parameters"]["exponent"] <= high < low + 0.06
    scale = (0.3478 * 482.0 / (0.3658 * 2_085.4)) ** (1 / 0.7136)
    for budget in found["budgets"]:
        exact = scale * (budget["budget_flops"] / 6) ** (0.3658 / 0.7136)
        assert budget["minimum"]["parameters"] == pytest.approx(exact, rel=0.1)
        assert len(budget["fitted_parameters"]) == 5
    assert found["leave_one_out"] == {"refits": 24, "without_law": 0}


def test_where_the_15b_sits():
    placed = study(runs_of())["nemotron4_15b"]
    assert placed["parameters"] == 15_628_775_424 - 256_000 * 6_144
    assert placed["flops"] == pytest.approx(7.5e23, rel=0.01)
    assert placed["tokens_per_parameter"] == pytest.approx(569, rel=0.01)
    assert placed["decades_above_largest_budget"] == pytest.approx(math.log10(placed["flops"] / 2.4e13))
    chinchilla = placed["chinchilla"]
    assert 6 * chinchilla["parameters"] * chinchilla["tokens"] == pytest.approx(placed["flops"])
    low, high = placed["law"]["parameters"]["range"]
    assert low <= placed["law"]["parameters"]["value"] <= high


def test_a_minimum_outside_the_sampled_sizes_is_said_and_carries_no_law():
    found = study(runs_of(sizes=SIZES[3:], budgets=BUDGETS[:3]))
    assert [budget["minimum"] for budget in found["budgets"]] == [None] * 3
    assert found["budgets"][0]["no_minimum"].startswith("the minimum of the parabola lies at ")
    assert found["budgets"][0]["no_minimum"].endswith(" parameters, outside the fitted 505,536 to 1,857,600")
    assert (found["law"], found["nemotron4_15b"]["law"]) == (None, None)
    assert law_lines(found)[3] == "no law: 0 budgets have a minimum, a law needs 3"


def test_a_parabola_needs_three_sizes_and_a_bottom():
    few = study(runs_of(sizes=SIZES[:2]))
    assert {budget["no_minimum"] for budget in few["budgets"]} == {"2 sizes; a parabola needs 3"}
    hills = study(runs_of(loss=lambda parameters, tokens: -((math.log10(parameters) - 5.5) ** 2)))
    assert {budget["no_minimum"] for budget in hills["budgets"]} == {"the parabola opens downwards"}


def sweep_rows(root, runs):
    for number, run in enumerate(runs):
        directory = root / f"job_{number}"
        directory.mkdir()
        # Half of the reports were written before the key's name changed.
        key = "parameters_without_input_embedding" if number % 2 else "parameters_but_input_embedding"
        report = {"budget_flops": run.budget_flops, key: run.parameters}
        (directory / "report.json").write_text(json.dumps(report | {"tokens": run.tokens}))
        overrides = [f"schedule.budget_flops={run.budget_flops}", f"model=rung_{run.parameters}"]
        told = {"objective": run.bits_per_byte, "state": "complete", "error": None, "seconds": 1.0}
        yield SimpleNamespace(number=number, overrides=overrides, run_dir=str(directory), **told)


def test_a_sweep_over_budgets_ends_in_a_study(tmp_path, capsys):
    rows = list(sweep_rows(tmp_path, runs_of()))
    rows[0].objective = None  # a job that failed
    (tmp_path / "job_1" / "report.json").write_text("{")
    (tmp_path / "job_2" / "report.json").write_text('{"budget_flops": 1}')
    summarise(tmp_path, rows, False)
    assert not (tmp_path / "isoflop.json").exists()
    summarise(tmp_path, rows, True)
    found = json.loads((tmp_path / "isoflop.json").read_text())
    assert len(found["runs"]) == 21
    assert found["law"]["parameters"]["exponent"] == pytest.approx(0.51, abs=0.05)
    assert (tmp_path / "isoflop.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().err
    assert "N_opt = " in printed
    assert f"{tmp_path}/job_1/report.json: left out of the study, not a report (JSONDecodeError('Expecting" in printed
    missing = "KeyError('parameters_without_input_embedding')"
    assert f"job_2/report.json: left out of the study, not a report ({missing})" in printed
    assert "Nemotron-4 15B on 8T tokens: 7.52e+23 FLOPs" in printed


def test_another_sweep_has_no_study(tmp_path):
    summarise(tmp_path, list(sweep_rows(tmp_path, runs_of(sizes=SIZES[:2]))), True)
    assert not (tmp_path / "isoflop.json").exists()
