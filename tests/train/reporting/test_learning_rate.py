"""Which learning rate a plan and its picture show: that of the blocks' matrices."""

import pytest
from smoke import smoke_job

from nemotron4_train.job import OptimizerConfig, OptimizerKind
from nemotron4_train.plan.plan_job import PlanJob
from nemotron4_train.plan.tables import show
from nemotron4_train.reporting.timeline_plots import figure_over_tokens, plan_panels


@pytest.mark.parametrize(("kind", "peak"), [("adamw", 1e-3), ("muon", 2e-2)])
def test_it_is_that_of_the_matrices(tmp_path, capsys, kind, peak):
    optimizer = OptimizerConfig(kind=OptimizerKind[kind], lr=1e-3, muon_lr=2e-2)
    job = smoke_job(tmp_path / "none", tmp_path / "runs", optimizer=optimizer)
    timeline = job.timeline()
    panel = figure_over_tokens(timeline, plan_panels(job, timeline)).axes[0]
    assert panel.get_ylabel() == "learning rate\n(matrices)"
    assert max(panel.lines[0].get_ydata()) == pytest.approx(peak)
    show(PlanJob(**vars(job)))
    shown = capsys.readouterr().out
    (warmup,) = [line for line in shown.splitlines() if "warmup" in line and "pretraining" in line]
    assert [float(cell) for cell in warmup.strip("│┃ ").split("│")[-2:]] == [peak / 4, peak]
    assert "lr: learning rate of the blocks' matrices" in " ".join(shown.split())
