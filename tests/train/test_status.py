"""`nemotron4 status` and `nemotron4 cancel` for runs on this machine."""

import os
import signal
import subprocess
import sys

import pytest
from smoke import smoke_job

from nemotron4_train.run_directory import RunRecord, create, exclusive, read_record, write_record
from nemotron4_train.slurm.client import QueuedJob, comment_of
from nemotron4_train.status import COLUMNS, CancelJob, StatusJob, cancel, run_directories, status_row

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
    assert shown(*run)["state"] == "lost (its processes are gone; run the same command to go on)"


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
         f"root ({tmp_path}/none): holds no runs; name the directory that they were started in"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            run_directories(job)
        assert str(error.value) == said


def test_cancel_tells_the_process_that_holds_the_lock(run):
    directory, _ = run
    with pytest.raises(ValueError) as error:
        cancel(CancelJob(run=str(directory)))
    assert str(error.value) == f"run ({directory}): nothing of it runs, and nothing of it is in the queue"
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
