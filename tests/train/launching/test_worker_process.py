"""What a process believes of its environment about ranks, and that it ends with its launcher."""

import os
import select
import signal
import subprocess
import sys

import pytest
from smoke import smoke_job
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import elastic_launch

from nemotron4_train.launching.elastic import _launch_config
from nemotron4_train.launching.environment import LAUNCHER_PID
from nemotron4_train.launching.launch import launch
from nemotron4_train.launching.slurm.rank import take_rank_from_slurm
from nemotron4_train.launching.worker_process import check_rank, own_compiler_cache, refuse_rank_of_several

WORKER = """
import os, sys, time
from nemotron4_train.launching.worker_process import settle
settle()
os.write(1, b"settled")
time.sleep(600)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_worker_dies_with_its_launcher():
    """The pipe ends when nobody holds it any more: neither launcher nor worker."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, WORKER], stdout=subprocess.PIPE)
    assert os.read(launcher.stdout.fileno(), 100) == b"settled"
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert select.select([launcher.stdout], [], [], 60)[0], "the worker lives on"
    assert launcher.stdout.read() == b""
    launcher.stdout.close()


def test_a_worker_whose_launcher_is_dead_already_does_not_start():
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=os.environ | {LAUNCHER_PID: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the launcher of this worker is gone\n")


def test_each_rank_compiles_into_a_directory_of_its_own(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")
    own_compiler_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/cache"
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        own_compiler_cache()
        found.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")
        own_compiler_cache()
        found.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert found[1::2] == ["/cache/rank-0", "/cache/rank-1"]
    assert found[0].endswith("/rank-0")
    assert found[2].endswith("/rank-1")


OF_SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_JOB_ID": "7",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables in an environment that has none of those that launchers set."""

    def set_variables(**variables):
        for name in (
            *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
            *OF_SLURM,
        ):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_a_rank_that_the_shell_has_is_refused_before_anything_is_written(environment, tmp_path):
    environment(RANK="1", WORLD_SIZE="2", MASTER_ADDR="elsewhere")
    with pytest.raises(ValueError) as refusal:
        launch(smoke_job(tmp_path / "no corpus", tmp_path / "runs"), "")
    assert str(refusal.value) == (
        "RANK (1), WORLD_SIZE (2): the environment says that a launcher made this process one of several ranks, but"
        " `nemotron4 train` starts its ranks itself; unset RANK WORLD_SIZE, or have that launcher start"
        " `python -m nemotron4_train.cli RUN_DIR` (launcher.dry_run=true shows how)"
    )
    assert not (tmp_path / "runs").exists()
    environment(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", **OF_SLURM)
    refuse_rank_of_several()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "1"},
            "RANK (1), LOCAL_RANK (0), WORLD_SIZE (1): not a rank of a run; start workers with torchrun or srun, which"
            " set them",
        ),
        (
            {"RANK": "first", "WORLD_SIZE": "2"},
            "RANK (first), LOCAL_RANK (0), WORLD_SIZE (2): not a rank of a run; start workers with torchrun or srun,"
            " which set them",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
            "LOCAL_RANK, MASTER_ADDR (unset): needed with WORLD_SIZE=2; start workers with torchrun or srun, which set"
            " them",
        ),
    ],
)
def test_a_worker_that_no_launcher_made_is_refused(environment, variables, message):
    environment(**variables)
    with pytest.raises(ValueError) as refusal:
        check_rank()
    assert str(refusal.value) == message


def test_srun_is_believed_rather_than_the_shell_it_was_called_in(environment):
    environment(RANK="0", WORLD_SIZE="2", LOCAL_RANK="1", **OF_SLURM)
    with pytest.raises(ValueError) as refusal:
        take_rank_from_slurm()
    assert str(refusal.value) == (
        "RANK (0): set in the environment that srun was called in, but Slurm started rank 1 of 2;"
        " unset RANK before srun"
    )
    environment(MASTER_ADDR="first", MASTER_PORT="1", **OF_SLURM)
    take_rank_from_slurm()
    check_rank()
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["1", "1", "2"]


def test_ranks_of_one_machine_meet_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda name="": "no-such-host.invalid")
    config = _launch_config(tmp_path, 2)
    config.logs_specs = DefaultLogsSpecs(log_dir=str(tmp_path))
    script = (
        f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text(os.environ['MASTER_ADDR'])"
    )
    elastic_launch(config, sys.executable)("-c", script)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["localhost", "localhost"]
