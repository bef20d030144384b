import os
import select
import signal
import subprocess
import sys

from nemotron4_train.worker_process import LAUNCHER_PID, own_compiler_cache

WORKER = """
import os, sys, time
from nemotron4_train.worker_process import settle
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
