"""What a Slurm job makes of how its workers ended; tests/slurm has it from Slurm itself."""

import json
import subprocess
import sys

import pytest

from nemotron4_train.launching.slurm import attempt, client
from nemotron4_train.run_directory import RunRecord, read_record, write_record


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose job has begun, and waits for nothing."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "limits.json").write_text('{"max_requeues_without_progress": 1}')
    write_record(tmp_path, RunRecord(job_digest="", state="queued", num_steps=10))
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    for name in ("_KILL_SECONDS", "_RETRY_SECONDS", "_LONGEST_NOTICE_SECONDS"):
        monkeypatch.setattr(attempt, name, 0)
    monkeypatch.setattr(client, "seconds_to_notice", lambda: 0.0)
    monkeypatch.setattr(client, "state_of", lambda job_id: "RUNNING")
    assert attempt.begin(tmp_path, 0) == 0
    return tmp_path


def leave(run, state, **fields):
    record = read_record(run)
    record.state = state
    for name, value in fields.items():
        setattr(record, name, value)
    write_record(run, record)


@pytest.fixture
def slurm(monkeypatch):
    """Its answers in order, and what it was asked to queue again."""
    answers, requeued = [], []

    def state_of(job_id):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "state_of", state_of)
    monkeypatch.setattr(client, "requeue", requeued.append)
    return answers, requeued


@pytest.mark.parametrize("state", ["complete", "queued"])
def test_a_leg_that_is_done_ends_well(run, state):
    leave(run, state)
    assert attempt.end(run, 0, 0) == 0


@pytest.mark.parametrize("status", [1, 0])
def test_workers_that_never_started_are_no_success(run, status):
    assert attempt.end(run, 0, status) == 1
    record = read_record(run)
    assert (record.state, record.error) == ("failed", f"the workers of job 9 ended with status {status}; see its log")


def test_workers_ended_by_a_requeue_have_not_failed(run, slurm):
    answers, requeued = slurm
    answers += ["PENDING"]
    assert attempt.end(run, 0, 1) == 75
    assert (requeued, read_record(run).state) == ([], "queued")


def test_their_own_reason_stays(run):
    leave(run, "failed", error="rank 0 failed: connection reset by peer")
    assert attempt.end(run, 0, 1) == 1
    assert read_record(run).error == "rank 0 failed: connection reset by peer"


@pytest.mark.parametrize(("state", "status"), [("stopped", 75), ("running", 128 + 10)])
def test_told_to_save_it_is_queued_again_as_itself(run, slurm, monkeypatch, state, status):
    answers, requeued = slurm
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    answers += [OSError("squeue: no answer"), "RUNNING"]
    leave(run, state)
    assert attempt.end(run, 0, status) == 75
    assert requeued == ["7_3"]
    assert read_record(run).state == "queued"


def test_a_cancelled_job_is_not_queued_again(run, slurm):
    answers, requeued = slurm
    answers += ["COMPLETING"]
    leave(run, "stopped")
    assert attempt.end(run, 0, 75) == 75
    assert (requeued, read_record(run).state) == ([], "stopped")


def test_what_follows_says_that_it_failed_and_the_run_stays_complete(run):
    leave(run, "complete")
    assert attempt.end(run, None, 2) == 2
    record = read_record(run)
    assert record.state == "complete"
    assert record.error == f"afterwards ended with status 2; see {run}/slurm; start it again with run.dir={run}"


def test_attempts_without_progress_are_counted_by_job(run, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert attempt.begin(run, 0) == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert attempt.begin(run, 0) == 1
    assert read_record(run).state == "failed"
    with open(run / attempt.ATTEMPTS, "a") as file:
        file.write(json.dumps({"job": "9"})[:-2])  # a disk that was full
    assert attempt.requeues(attempt.read_attempts(run)) == 2
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    assert attempt.begin(run, 0) == 0


def test_the_name_that_batch_scripts_of_earlier_versions_call_still_works():
    command = [sys.executable, "-m", "nemotron4_train.slurm.attempt", "--help"]
    assert "begin" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
