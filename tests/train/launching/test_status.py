"""`nemotron4 status` and `nemotron4 cancel` for runs on this machine."""

import os
import signal
import subprocess
import sys

import pytest
from smoke import smoke_job

from nemotron4_config import render_job
from nemotron4_train.cli import status
from nemotron4_train.launching.slurm.client import QueuedJob, comment_of
from nemotron4_train.launching.status import (
    COLUMNS,
    CancelJob,
    StatusJob,
    cancel,
    run_directories,
    show_status,
    status_row,
)
from nemotron4_train.run_directory import RunRecord, RunState, create, exclusive, read_record, write_record

METRICS = """\
step,tokens,loss,lr,global_batch_size,phase,grad_norm,skipped,tokens_per_second,mfu
1,128,6.5,0.1,4,warmup,1.0,0,100.0,
2,256,nan,0.1,4,warmup,nan,1,100.0,
"""


@pytest.fixture
def run(tmp_path):
    job = smoke_job("data", tmp_path)
    directory = tmp_path / "smoke" / "one"
    create(directory, job, "", num_steps=12)
    (directory / "metrics.csv").write_text(METRICS)
    return directory, job


def shown(directory, job, queue=()):
    return dict(zip(COLUMNS, status_row(directory, job, queue), strict=True))


def test_a_running_run_shows_where_it_is(run, monkeypatch):
    directory, job = run
    monkeypatch.chdir(directory.parent)
    with exclusive(directory):
        row = shown(directory, job)
    assert row == {
        "run": "one", "state": "running", "phase": "warmup", "step": "2 / 12", "tokens": "256 / 2,560",
        "loss": "6.500", "tokens/s": "100", "left": "0:00:23", "queue": "", "requeues": "0",
    }  # fmt: skip


def test_a_run_whose_processes_are_gone_is_lost(run):
    assert shown(*run)["state"] == "lost (its processes are gone; run the same command to resume)"


def test_a_failed_run_says_why(run):
    directory, job = run
    write_record(directory, RunRecord(job_digest="", state="failed", error="no disk"))
    assert shown(directory, job)["state"] == "failed: no disk"


def test_the_queue_is_read_by_the_comment(run):
    directory, job = run
    queue = [
        QueuedJob(job_id="7", state="RUNNING", reason="n1", comment=comment_of(directory)),
        QueuedJob(job_id="8", state="PENDING", reason="Dependency", comment=comment_of(directory.parent)),
    ]
    assert shown(directory, job, queue)["queue"] == "7 running"
    assert shown(directory, job, queue)["state"] == "running"


def test_runs_are_found_below_the_root_once(run, tmp_path):
    directory, _ = run
    assert run_directories(StatusJob(root=str(tmp_path))) == [directory]
    for job, said in (
        (StatusJob(run=str(tmp_path)),
         f"run ({tmp_path}): has no run.json; name a run directory such as runs/demo/latest"),
        (StatusJob(root=str(tmp_path / "none")),
         f"root ({tmp_path}/none): contains no runs; give the run.root that they were started with"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            run_directories(job)
        assert str(error.value) == said


def test_one_damaged_run_hides_no_other(run, tmp_path, capsys, monkeypatch):
    directory, job = run
    others = {}
    for name in ("empty", "garbage", "plain", "latest", "device"):
        others[name] = tmp_path / (name if name == "latest" else "smoke") / name
        create(others[name], job, render_job(job), num_steps=12, state="stopped")
        (others[name] / "metrics.csv").write_text(METRICS)
    (others["empty"] / "run.json").write_text("")
    (others["garbage"] / "metrics.csv").write_text(METRICS + "3,384,low,0.1,4,warmup,1.0,0,100.0,\n")
    (others["garbage"] / "job.yaml").write_text("a: [")
    (others["device"] / "metrics.csv").unlink()
    (others["device"] / "metrics.csv").symlink_to("/proc/self/mem")  # to read it is an error, also for root
    (directory / "job.yaml").write_text(render_job(job))
    monkeypatch.chdir(tmp_path)
    status(StatusJob(root="."))
    table = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in ("smoke/one", "smoke/empty", "smoke/garbage", "smoke/plain", "latest/latest", "smoke/device"):
        assert table.count(text) == 1, text
    assert shown(others["plain"], job)["state"] == "stopped"
    empty = shown(others["empty"], job)
    assert empty["state"] == (
        "run.json: not a run record (Expecting value: line 1 column 1 (char 0)); restore it, or choose another run.dir"
    )
    assert (empty["step"], empty["loss"]) == ("2", "6.500")
    assert shown(others["garbage"], ValueError(f"{others['garbage']}/job.yaml: cut")) == {
        "run": "smoke/garbage",
        "state": "stopped; metrics.csv: line 4: loss (low): not a valid number; remove the line; job.yaml: cut",
        "phase": "", "step": "0 / 12", "tokens": "", "loss": "", "tokens/s": "", "left": "", "queue": "",
        "requeues": "0",
    }  # fmt: skip
    assert shown(others["device"], job)["state"] == "stopped; metrics.csv: Input/output error"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.json", "[1]", "run.json: not a run record (nemotron4_train.run_directory.RunRecord() argument after **"),
        ("run.json", '{"job_digest": "", "step": "x"}', "run.json: not a run record (state 'running', step 'x' of 0)"),
        ("run.json", '{"job_digest": "", "state": "odd"}', "run.json: not a run record (state 'odd', step 0 of 0)"),
        ("metrics.csv", "\xff\n1\n", "metrics.csv: line 2: step (None): not a valid number; remove the line"),
        ("metrics.csv", "step,loss\n1.5,2\n", "metrics.csv: line 2: step (1.5): not a valid number"),
        ("metrics.csv", "step,loss\n1,2,3\n", "metrics.csv: line 2: ['3']: beyond the last column; remove the line"),
        ("slurm/attempts.jsonl", '{"restart": 0}\n', "slurm/attempts.jsonl: not a list of attempts (TypeError("),
        ("slurm/jobs.json", "{", "slurm/jobs.json: not a list of jobs (JSONDecodeError("),
    ],
)
def test_the_row_says_what_is_damaged(run, file, content, said):
    directory, job = run
    write_record(directory, RunRecord(job_digest="", state="complete"))
    (directory / "slurm").mkdir()
    (directory / file).write_text(content)
    assert said in shown(directory, job)["state"]


def test_a_record_that_is_a_folder_is_said(run):
    directory, job = run
    (directory / "run.json").unlink()
    (directory / "run.json").mkdir()
    assert shown(directory, job)["state"] == "run.json: not a file"


@pytest.fixture
def no_cluster(tmp_path, monkeypatch):
    """Slurm's programs, installed where there is no cluster."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue"):
        (programs / name).write_text("#!/bin/sh\necho 'squeue: error: no controller' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def test_the_queue_is_asked_where_a_run_is_on_slurm(run, no_cluster, capsys):
    directory, job = run
    show_status([directory], [job])
    assert capsys.readouterr().err == ""
    (directory / "slurm").mkdir()
    show_status([directory, directory], [job, job])
    assert capsys.readouterr().err == "nemotron4: the queue is unknown (squeue: squeue: error: no controller)\n"


def test_cancel_needs_no_whole_record(run):
    directory, _ = run
    (directory / "run.json").write_text("")
    with pytest.raises(ValueError) as error:
        cancel(CancelJob(run=str(directory)))
    assert str(error.value) == f"run ({directory}): it has no running process, and no job in the queue"


def test_cancel_tells_the_process_that_holds_the_lock(run):
    directory, _ = run
    with pytest.raises(ValueError) as error:
        cancel(CancelJob(run=str(directory)))
    assert str(error.value) == f"run ({directory}): it has no running process, and no job in the queue"
    hold = (
        "import sys, time; from pathlib import Path; from nemotron4_train.run_directory import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(directory)], stdout=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout.readline() == b"held\n"
        cancel(CancelJob(run=str(directory)))
        assert process.wait(20) == -signal.SIGTERM
    assert read_record(directory).state == "running"


@pytest.mark.parametrize("state", ["queued", "running", "stopped", "failed", "complete"])
def test_a_record_says_its_state_as_it_always_has(tmp_path, state):
    text = (
        f'{{\n "job_digest": "d",\n "state": "{state}",\n "step": 3,\n "num_steps": 12,\n "error": null,\n'
        ' "objective": null,\n "identity": null\n}\n'
    )
    (tmp_path / "run.json").write_text(text)
    record = read_record(tmp_path)
    assert record.state is RunState(state)
    write_record(tmp_path, record)
    since = ',\n "id": null,\n "tokenizer": null,\n "deterministic": null,\n "gpu": null\n}\n'
    assert (tmp_path / "run.json").read_text() == text.replace("\n}\n", since)
