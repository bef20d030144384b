"""What a run shows: its speed, its sources, its profile, its report while it runs and beside another run."""

import contextlib
import csv
import dataclasses
import gzip
import io
import json
import re
import shutil

import pytest
from smoke import run, smoke_job

from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_train.checkpoints import reading
from nemotron4_train.checkpoints.reading import Checkpoint
from nemotron4_train.job import RunConfig, TrainerConfig
from nemotron4_train.lightning import recorder
from nemotron4_train.lightning.module import StepResult
from nemotron4_train.lightning.recorder import ReportRefresher
from nemotron4_train.reporting.comparison import ComparedRun, final_figures, source_rows
from nemotron4_train.reporting.mfu import Utilisation
from nemotron4_train.reporting.progress import TrainingProgress
from nemotron4_train.reporting.report import write_report
from nemotron4_train.run_directory import read_record, write_record
from nemotron4_train.schedule import Timeline
from nemotron4_train.topology import TopologyConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*LeafSpec.*:DeprecationWarning",
    "ignore:torch.distributed is disabled:UserWarning",
)
TRAINER = TrainerConfig(
    log_interval_steps=5,
    save_interval_steps=4,
    validation_interval_steps=6,
    validation_bytes_per_source=300,
    profile_first_step=3,
    profile_num_steps=2,
)


def rows(directory, name):
    with open(directory / name, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def watched(prepared, tmp_path_factory):
    """A job with a known peak and a profile: the job, its directory, and what it printed."""
    job = smoke_job(
        prepared, tmp_path_factory.mktemp("watched"), trainer=TRAINER, topology=TopologyConfig(peak_teraflops=1.0)
    )
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        directory = run(job)
    return job, directory, printed.getvalue()


def test_mfu_is_recorded_and_shown_with_its_convention(watched):
    job, directory, printed = watched
    for row in rows(directory, "metrics.csv"):
        expected = job.model.flops_per_token(32) * float(row["tokens_per_second"]) / 1e12
        assert float(row["mfu"]) == pytest.approx(expected, rel=1e-2)
    line = re.compile(r"^\w+: step \d+/12 .* tokens/s  MFU \(full attention\) \d+\.\d%  .* left$", re.MULTILINE)
    assert len(line.findall(printed)) == 2
    assert "MFU (full attention)" in (directory / "report.html").read_text()


def test_losses_of_domains_and_sources_add_up_to_those_of_the_steps(watched):
    _, directory, _ = watched
    steps = rows(directory, "metrics.csv")
    for name in ("domains.csv", "sources.csv"):
        found = rows(directory, name)
        assert sorted({int(row["step"]) for row in found}) == [5, 10, 12]
        for first, last in ((0, 5), (5, 10), (10, 12)):
            tokens = [int(row["global_batch_size"]) * 32 for row in steps[first:last]]
            losses = [float(row["loss"]) for row in steps[first:last]]
            parts = [row for row in found if int(row["step"]) == last and row["loss"]]
            assert sum(int(row["loss_tokens"]) for row in parts) == sum(tokens)
            total = sum(float(row["loss"]) * int(row["loss_tokens"]) for row in parts)
            assert total == pytest.approx(sum(a * b for a, b in zip(tokens, losses, strict=True)), rel=1e-6)
    assert {row["domain"] for row in rows(directory, "domains.csv")} == {"english", "multilingual", "code"}


def test_epochs_are_those_of_the_ledger(watched):
    _, directory, _ = watched
    ledger = Checkpoint.open(reading.checkpoint_directory(directory, 12)).ledger
    last = {row["source"]: row for row in rows(directory, "sources.csv") if row["step"] == "12"}
    shown = json.loads((directory / "report.json").read_text())["epochs"]
    assert set(last) == set(ledger.sources) == set(shown)
    for name, counts in ledger.sources.items():
        assert int(last[name]["drawn_tokens"]) == counts["tokens"]
        assert shown[name] == pytest.approx(counts["epochs"], rel=1e-8)


def test_the_profile_holds_the_steps_asked_for(watched):
    _, directory, printed = watched
    (path,) = (directory / "profile").iterdir()
    assert path.name == "step-3-rank-0.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert len({event["name"] for event in events if event["name"].startswith("ProfilerStep#")}) == 2
    assert any(event["name"] == "aten::mm" for event in events)
    assert f"profile of 2 steps from 3, one file per rank: {directory.parent.resolve()}" in printed.replace(
        "latest", ""
    )


def test_the_report_is_refreshed_in_a_small_share_of_the_time(watched, tmp_path, monkeypatch):
    job, finished, _ = watched
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    record = read_record(directory)
    record.state = "running"
    write_record(directory, record)
    timeline, page = Timeline(job.schedule), directory / "report.html"
    progress = TrainingProgress(timeline, 0, 5, Utilisation(model=job.model, num_devices=1, peak_teraflops=None))
    monkeypatch.setattr(recorder, "_FIRST_REPORT_SECONDS", 0)
    refresher = ReportRefresher(job, directory, timeline.num_steps, progress)

    def written_after(step):
        page.unlink(missing_ok=True)
        plan = timeline.step(step - 1)
        refresher.after_step(None, None, StepResult(plan, 1.0, 1e-3, 1.0, None, {}))
        return page.is_file()

    assert not written_after(5)
    assert written_after(6)
    assert not written_after(8), "a hundred times its cost has not passed"
    progress.close()
    write_report(directory, job)
    assert "; running" in page.read_text()


@pytest.fixture(scope="module")
def other_blend(watched, prepared, tmp_path_factory):
    """The continued phase again from the same checkpoint, on the blend of pretraining."""
    _, directory, _ = watched
    same = Distribution(weights={"english": 0.7, "multilingual": 0.15, "code": 0.15})
    job = smoke_job(
        prepared,
        tmp_path_factory.mktemp("other"),
        run=RunConfig(name="same-blend", root=str(tmp_path_factory.mktemp("other"))),
        blend=BlendConfig(distributions={"pretraining": same, "continued": same}),
        trainer=dataclasses.replace(TRAINER, profile_first_step=None),
        resume=str(reading.checkpoint_directory(directory, 8)),
    )
    return job, run(job)


def test_a_run_is_shown_beside_another(watched, other_blend):
    job, directory, _ = watched
    other_job, other = other_blend
    assert [int(row["step"]) for row in rows(other, "metrics.csv")] == [9, 10, 11, 12]
    page = write_report(directory, job, {other: other_job}).read_text()
    ours, theirs = json.loads((directory / "report.json").read_text())["comparison"]
    assert (ours["run"], theirs["run"]) == ("smoke", "same-blend")
    assert ours["tokens"] == theirs["tokens"] == 32 * (4 * 4 + 8 * 8)
    for name in ("overall", "english", "multilingual", "code"):
        expected = [float(rows(path, "validation.csv")[-1][name]) for path in (directory, other)]
        assert [ours["bits_per_byte"][name], theirs["bits_per_byte"][name]] == expected
        assert theirs["difference"][name] == pytest.approx(expected[1] - expected[0])
        assert f"<td>{expected[1]:.3f} ({expected[1] - expected[0]:+.3f})</td>" in page


def test_runs_of_other_heldout_text_are_not_compared(watched, other_blend, tmp_path):
    job, directory, _ = watched
    other_job, other = other_blend
    trainer = dataclasses.replace(other_job.trainer, validation_bytes_per_source=200)
    with pytest.raises(ValueError) as caught:
        write_report(directory, job, {other: dataclasses.replace(other_job, trainer=trainer)})
    assert str(caught.value) == (
        "compare (same-blend): its trainer.validation_bytes_per_source is 200, that of smoke is 300: bits per byte of"
        " different held-out text cannot be compared; choose runs that read the same"
    )
    with pytest.raises(ValueError) as caught:
        write_report(directory, job, {tmp_path: other_job})
    assert str(caught.value) == "compare (same-blend): has no validation yet; wait for its first"


def test_evaluated_runs_are_compared_by_source():
    runs = [
        ComparedRun(
            label=name,
            job=None,
            validation=[],
            evaluation={"bytes": 9, "bits_per_byte": {"overall": 2.0, "sources": {"english/books": value}}},
        )
        for name, value in (("a", 2.0), ("b", 1.75))
    ]
    domains = ["overall", "english"]
    assert source_rows(final_figures(runs, domains)) == [
        ("source", "a", "b"),
        ("english/books", "2.000", "1.750 (-0.250)"),
    ]
    assert source_rows(final_figures([dataclasses.replace(run, evaluation={}) for run in runs], domains)) == []
