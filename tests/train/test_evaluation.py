"""Benchmarks during training: where they are measured, what they write, and that they change nothing."""

import contextlib
import io
import random
import re
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from own_tasks import write_tasks
from smoke import run, smoke_job

from nemotron4_infer import load_model_directory
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.export import ExportJob, export_checkpoint
from nemotron4_train.evaluation import EvaluationConfig
from nemotron4_train.job import RunConfig, TrainerConfig
from nemotron4_train.launching.launch import launch
from nemotron4_train.reporting import progress
from nemotron4_train.reporting.evaluations import accuracy_curves, gold_curves
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.reporting.report import write_report
from nemotron4_train.reporting.run_plots import Measured, run_figure

pytestmark = [
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the harness extra"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:torch.distributed is disabled:UserWarning"),
    # lm-eval and the libraries below it warn about themselves; nothing here can act on that.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
TRAINER = TrainerConfig(save_interval_steps=4, validation_interval_steps=12, validation_bytes_per_source=300)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def evaluated(prepared, tasks, tmp_path_factory):
    """A whole run that evaluates: its job, its directory, and what it printed."""
    config = EvaluationConfig(tasks=tasks, every_tokens=600, limit=6)
    job = smoke_job(prepared, tmp_path_factory.mktemp("evaluated"), evaluation=config, trainer=TRAINER)
    printed, before = io.StringIO(), drawn_state()
    with contextlib.redirect_stderr(printed):
        directory = run(job)
    assert drawn_state() == before, "its tasks seed and draw"
    return job, directory, printed.getvalue()


def drawn_state():
    """The state of the generators that training does not use."""
    return random.getstate(), np.random.get_state()[1].tolist()


def evaluations(directory):
    return read_rows(directory / "evaluations.csv")


def numbers(directory, step):
    """The files of a checkpoint that hold weights, optimiser state and torch's random state, by name."""
    place = reading.checkpoint_directory(directory, step)
    found = {path.name: path.read_bytes() for path in place.rglob("*.distcp")}
    assert found
    return found


def test_it_is_measured_at_multiples_of_tokens_and_at_the_end(evaluated):
    job, directory, printed = evaluated
    timeline = job.timeline()
    steps = list(dict.fromkeys(int(row["step"]) for row in evaluations(directory)))
    # Steps of 128 tokens up to 512, then of 256: the first that reach 600, 1,200, 1,800 and 2,400, which is the last.
    assert [timeline.tokens_before(step) for step in steps] == [768, 1_280, 2_048, 2_560]
    note = re.compile(r"^step (\d+): evaluation  colours 0\.\d{3}, \d+\.\d{3} bits per byte  sums ", re.MULTILINE)
    assert [int(step) for step in note.findall(printed)] == steps
    left_out = "evaluation: no text is generated during training; of sums: only the bits per byte of the right answers"
    assert printed.count(left_out) == 1


def test_it_changes_nothing_of_training(evaluated, undisturbed):
    assert numbers(evaluated[1], 12) == numbers(undisturbed[1], 12)
    assert evaluated[0].digest() == undisturbed[0].digest()


def test_a_resumed_run_measures_the_same_and_its_speed_is_that_of_training(evaluated, tmp_path, monkeypatch):
    from nemotron4_eval.suites.in_training import TrainingTasks

    job, whole, _ = evaluated
    asleep, clock, measure = [0.0], progress.time.perf_counter, TrainingTasks.measure

    def slowly(self, nll_of_windows):
        asleep[0] += 1e6
        return measure(self, nll_of_windows)

    monkeypatch.setattr(TrainingTasks, "measure", slowly)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock() + asleep[0])
    job = replace(job, run=RunConfig(name="smoke", root=str(tmp_path)))
    for last in (8, None):  # step 8 reaches no multiple, but is the last
        directory = run(replace(job, trainer=replace(TRAINER, max_steps=last)))
    rows = evaluations(directory)
    assert [row for row in rows if row["step"] != "8"] == evaluations(whole)
    assert len(rows) == 5 / 4 * len(evaluations(whole))
    assert asleep[0] == 5e6
    # A million seconds within a step would leave less than a token in each.
    assert all(float(row["tokens_per_second"]) > 1 for row in read_rows(directory / "metrics.csv"))


def test_the_last_values_are_those_of_the_exported_model(evaluated, tasks):
    from nemotron4_eval.harness.model import EngineLM
    from nemotron4_eval.harness.run import run_tasks

    job, directory, _ = evaluated
    export_checkpoint(ExportJob(run=str(directory)), job)
    theirs = run_tasks(EngineLM(load_model_directory(str(directory / "export"), None)), tasks, limit=6)
    last = {(row["task"], row["metric"]): row for row in evaluations(directory) if row["step"] == "12"}
    assert sorted(last) == [("colours", "acc"), ("colours", "gold_bits_per_byte"), ("sums", "gold_bits_per_byte")]
    for (task, metric), row in last.items():
        expected = theirs[task].metrics[metric], theirs[task].stderrs[metric], theirs[task].items
        assert (float(row["value"]), float(row["stderr"]), int(row["items"])) == pytest.approx(expected, abs=1e-5)
    assert float(last["colours", "acc"]["chance"]) == pytest.approx((3 / 2 + 3 / 3) / 6, abs=1e-6)
    assert last["sums", "gold_bits_per_byte"]["chance"] == ""


def test_loggers_have_it_too(evaluated):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, directory, _ = evaluated
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    rows = [row for row in evaluations(directory) if row["metric"] == "gold_bits_per_byte" and row["task"] == "sums"]
    points = events.Scalars("evaluation/sums/gold_bits_per_byte")
    assert [(point.step, point.value) for point in points] == [
        (int(row["step"]), pytest.approx(float(row["value"]), abs=1e-5)) for row in rows
    ]


def test_the_report_draws_curves_with_the_level_of_chance(evaluated):
    job, directory, _ = evaluated
    rows = evaluations(directory)
    figure = run_figure(job, job.timeline(), Measured(steps=[], validation=[], evaluations=rows))
    (accuracy,) = (axis for axis in figure.axes if axis.get_ylabel() == "benchmarks:\naccuracy")
    curve, chance, _ = accuracy.get_lines()
    values = [float(row["value"]) for row in rows if row["metric"] == "acc"]
    assert (curve.get_label(), list(curve.get_ydata())) == ("colours", values)
    assert list(curve.get_xdata() * 1_000) == pytest.approx([768, 1_280, 2_048, 2_560])
    assert list(chance.get_ydata()) == pytest.approx([2.5 / 6] * 2, abs=1e-6)
    (bits,) = (axis for axis in figure.axes if "right answers" in axis.get_ylabel())
    assert [line.get_label() for line in bits.get_lines()] == ["colours", "sums"]
    assert bits.get_lines()[0].get_color() == curve.get_color()
    page = write_report(directory, job).read_text()
    assert "Benchmarks after step 12, during training" in page
    assert f"<td>{values[-1]:.3f} ± " in page


def test_of_many_tasks_of_a_benchmark_their_mean_is_drawn():
    row = {
        "step": "1",
        "tokens": "9",
        "benchmark": "mmlu",
        "metric": "acc",
        "stderr": "",
        "chance": "0.25",
        "items": "5",
    }
    rows = [row | {"task": f"mmlu_{i}", "value": str(i / 10)} for i in range(9)]
    rows += [row | {"benchmark": "arc", "task": "arc", "metric": "acc", "value": "1"}]
    rows += [row | {"benchmark": "arc", "task": "arc", "metric": "acc_norm", "value": "0.5"}]
    curves = accuracy_curves(rows)
    assert {name: curve.values for name, curve in curves.items()} == {"mmlu, mean": [pytest.approx(0.4)], "arc": [0.5]}
    assert curves["mmlu, mean"].chance == 0.25
    assert gold_curves(rows) == {}


def refusal(job):
    with pytest.raises(ValueError) as caught:
        launch(job, "")
    return str(caught.value)


def test_what_is_missing_is_said_before_training(evaluated, prepared, tasks, tmp_path, monkeypatch):
    def job(**evaluation):
        return smoke_job(prepared, tmp_path, evaluation=EvaluationConfig(**evaluation))

    assert refusal(job(tasks=["nowhere.yaml"])) == (
        "evaluation.tasks (nowhere.yaml): there is no such file; give the path of a task YAML of the harness"
    )
    missing = refusal(job(benchmarks=["commonsense"], data=str(tmp_path)))
    assert missing.startswith(f"evaluation.data ({tmp_path}): has no items of social_iqa (validation); ")
    assert missing.endswith(", or evaluation.fetch=true (5 more tasks lack something)")
    short = job(tasks=tasks)
    short.model = replace(short.model, max_sequence_length=4)
    phases = {name: replace(phase, sequence_length=4) for name, phase in short.schedule.phases.items()}
    short.schedule = replace(short.schedule, phases=phases)
    assert re.fullmatch(
        rf"evaluation\.tasks \({re.escape(tasks[0])}\): colours needs \d+ tokens for a typical item, and the model has"
        r" 4; leave it out, or train with a larger model\.max_sequence_length",
        refusal(short),
    )
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert refusal(job(benchmarks=["mmlu"])) == (
        "evaluation (mmlu): needs the LM Evaluation Harness; pip install 'nemotron4-eval[harness]'"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_tokens": 0.5}, "evaluation.every_tokens (0.5): must be a whole number of at least 1"),
        (
            {"benchmarks": ["arc"]},
            "evaluation.benchmarks (arc): is none of bbh, commonsense, flores, gsm8k, humaneval, mbpp, mgsm, mmlu,"
            " multipl_e, tydiqa, xcopa; give some of these",
        ),
        ({"limit": 0}, "evaluation.limit (0): must be at least 1, or null"),
        ({"data": ""}, "evaluation.data (''): must name a directory; leave it out for none"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError) as caught:
        EvaluationConfig(**settings)
    assert str(caught.value) == message
