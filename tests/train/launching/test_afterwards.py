"""What follows a run is composed and checked before the run starts."""

import pytest
from smoke import smoke_job

from nemotron4_train.launcher_config import LauncherConfig, LauncherKind
from nemotron4_train.launching.afterwards import run_afterwards
from nemotron4_train.launching.launch import launch
from nemotron4_train.launching.slurm_sweep import run_jobs


def refusal(tmp_path, *lines):
    """There is no corpus either, which comes later."""
    with pytest.raises(ValueError) as caught:
        launch(smoke_job(tmp_path / "none", tmp_path / "runs", afterwards=list(lines)), "")
    assert not list(tmp_path.iterdir())
    return str(caught.value)


def test_a_wrong_key_or_verb_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as a command line sets it for itself: no tracebacks for that
    found = refusal(
        tmp_path,
        "export run={run} dtype=bf16",
        "eval model_dir={run}/export corpus_dri={data}",
        "exprot run={run}",
        "train -m experiment=smoke seed=1,2",
    )
    first, second = found.split("; afterwards ")
    assert first == (
        "afterwards (eval model_dir={run}/export corpus_dri={data}): nemotron4 eval: corpus_dri: unknown key;"
        " --help lists the keys"
    )
    assert second.startswith("(exprot run={run}): nemotron4: 'exprot' is not a verb; choose one of: cancel, ")


def test_a_quote_that_is_left_open_and_an_empty_line_are_refused(tmp_path):
    assert refusal(tmp_path, "generate model_dir={run}/export 'prompt=a") == (
        "afterwards (generate model_dir={run}/export 'prompt=a): No closing quotation; quote it as in a shell"
    )
    assert refusal(tmp_path, "") == "afterwards (): names no verb; give a command line such as export run={run}"


def test_it_is_checked_before_a_sweep_is_submitted(tmp_path):
    launcher = LauncherConfig(kind=LauncherKind.slurm)
    job = smoke_job(tmp_path, tmp_path, launcher=launcher, afterwards=["exprot run={run}"])
    with pytest.raises(ValueError) as caught:
        run_jobs([(tmp_path / name, job) for name in ("one", "two")], lambda *_: None)
    assert str(caught.value).startswith("afterwards (exprot run={run}): nemotron4: 'exprot' is not a verb; choose one")
    assert not list(tmp_path.iterdir())


def test_one_that_fails_is_named_without_a_traceback(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    job = smoke_job(tmp_path, tmp_path, afterwards=["export run={run}"])
    with pytest.raises(ValueError) as caught:
        run_afterwards(job, tmp_path / "run")
    assert str(caught.value) == (
        f"afterwards (export run={tmp_path}/run): exited with status 2; the run is complete:"
        f" run its afterwards again with run.dir={tmp_path}/run"
    )
    assert capfd.readouterr().err == (
        f"nemotron4 export: run ({tmp_path}/run): has no job.yaml; name a run directory such as runs/demo/latest\n"
    )
