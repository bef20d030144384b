"""Executors: order, bounded flight, errors, killed workers and parents; Ray on a cluster of two nodes."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tasks

from nemotron4_data import Corpus, ExecutorConfig, ExecutorKind, PrepareJob, run_prepare
from nemotron4_data.executor import open_executor

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_order_and_tasks_are_taken_as_needed(num_workers):
    taken = []

    def numbers():
        for number in range(100):
            taken.append(number)
            yield number

    with open_executor(ExecutorConfig(num_workers=num_workers)) as executor:
        results = executor.map(tasks.square, numbers())
        assert next(results) == 0
        assert len(taken) <= 8
        assert list(results) == [number * number for number in range(1, 100)]
        assert (os.getpid() in set(executor.map(tasks.pid, range(4)))) == (num_workers == 1)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_task_is_the_error(num_workers):
    with (
        pytest.raises(ValueError, match=r"^number \(3\) must be another$"),
        open_executor(ExecutorConfig(num_workers=num_workers)) as executor,
    ):
        list(executor.map(tasks.refuse, [3, 4]))


def test_a_killed_worker_is_reported_in_one_line():
    with pytest.raises(OSError) as error, open_executor(ExecutorConfig(num_workers=2)) as executor:
        list(executor.map(tasks.die, range(3)))
    expected = "a worker process was killed, perhaps for lack of memory: lower executor.num_workers and rerun"
    assert str(error.value) == expected


def test_rest_ends_the_workers_and_the_next_task_starts_new_ones():
    with open_executor(ExecutorConfig(num_workers=2)) as executor:
        executor.rest()
        before = set(executor.map(tasks.pid, range(4)))
        executor.rest()
        for pid in before:
            wait_for_end(pid)
        assert before.isdisjoint(executor.map(tasks.pid, range(4)))


def test_workers_leave_ctrl_c_to_the_parent():
    with open_executor(ExecutorConfig(num_workers=2)) as executor:
        assert list(executor.map(tasks.interrupt, [1, 2, 3])) == [1, 2, 3]


def wait_for_end(pid):
    """Return when the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 30)[0], "the worker lives on"
    os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_an_interrupted_run_kills_its_tasks(tmp_path):
    def interrupted():
        with open_executor(ExecutorConfig(num_workers=2)) as executor:
            threading.Thread(target=_swallow, args=(executor, tmp_path), daemon=True).start()
            _pid_in(tmp_path / "pid")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    wait_for_end(_pid_in(tmp_path / "pid"))


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_workers_of_a_killed_parent_end(tmp_path):
    script = (
        "import sys, pathlib, tasks\n"
        "from nemotron4_data import ExecutorConfig\n"
        "from nemotron4_data.executor import open_executor\n"
        "if __name__ == '__main__':\n"
        "    with open_executor(ExecutorConfig(num_workers=2)) as executor:\n"
        "        list(executor.map(tasks.write_pid_and_wait, [pathlib.Path(sys.argv[1])]))\n"
    )
    (tmp_path / "run.py").write_text(script)
    with subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "pid"]) as parent:
        worker = _pid_in(tmp_path / "pid")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_for_end(worker)


def _swallow(executor, directory):
    with contextlib.suppress(OSError):
        list(executor.map(tasks.write_pid_and_wait, [directory / "pid"]))


def _pid_in(path):
    while not path.exists():
        os.sched_yield()
    return int(path.read_text())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": -1}, "executor.num_workers (-1): must be 0 (one per core) or more"),
        ({"address": ""}, "executor.address (''): must be HOST:PORT of a Ray cluster, or auto"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        ExecutorConfig(**settings)
    assert str(error.value) == message


def test_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = "executor.kind (ray): needs Ray; pip install 'nemotron4-data[ray]'"
    with pytest.raises(ValueError) as error, open_executor(ExecutorConfig(kind=ExecutorKind.ray)):
        pass
    assert str(error.value) == expected


@pytest.fixture(scope="module")
def cluster():
    """A real cluster of two nodes, one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{SUPPORT}{os.pathsep}{path}"
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield cluster
    cluster.shutdown()
    os.environ["PYTHONPATH"] = path


ray_test = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TestRay:
    pytestmark = ray_test

    def test_tasks_run_on_both_nodes_in_order(self, cluster, tmp_path):
        config = ExecutorConfig(kind=ExecutorKind.ray, address=cluster.address)
        with open_executor(config) as executor:
            assert list(executor.map(tasks.square, range(20))) == [number * number for number in range(20)]
            assert len(set(executor.map(tasks.meet_on_ray, [tmp_path / "a", tmp_path / "b"]))) == 2
            with pytest.raises(ValueError, match=r"^number \(3\) must be another$"):
                list(executor.map(tasks.refuse, [3]))

    def test_a_corpus_has_the_same_bytes(self, cluster, raw_directory, corpus, make_job, tmp_path, monkeypatch):
        monkeypatch.setattr("nemotron4_data.tokenise._TASK_BYTES", 20_000)
        monkeypatch.setattr("nemotron4_data.ingest._TASK_BYTES", 1)
        config = ExecutorConfig(kind=ExecutorKind.ray, address=cluster.address)
        monkeypatch.chdir(tmp_path)
        job: PrepareJob = make_job(raw_directory, "out", executor=config)
        run_prepare(job)
        made = Corpus.open(tmp_path / "out", verify=True)
        assert made.digest == corpus.digest
        assert _files(tmp_path / "out") == _files(corpus.dir)

    def test_an_address_without_a_cluster_is_named(self):
        pytest.importorskip("ray")
        address = "127.0.0.1:1"
        with (
            pytest.raises(ValueError) as error,
            open_executor(ExecutorConfig(kind=ExecutorKind.ray, address=address)),
        ):
            pass
        expected = f"executor.address ({address}): is not a running Ray cluster; start one with `ray start --head`"
        assert str(error.value) == expected


def _files(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        # These name the directory, or when a file was changed.
        if path.is_file() and path.name not in ("manifest.json", "report.html", ".verified.json")
    }


def test_ctrl_c_while_workers_start_goes_to_the_parent(tmp_path):
    """It reaches the whole process group, also workers that are still importing what they will run."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from nemotron4_data.executor import LocalExecutor\n"
        "if __name__ == '__mp_main__':\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "if __name__ == '__main__':\n"
        "    executor = LocalExecutor(2)\n"
        "    print(list(executor.map(abs, [-1, -2, -3])), signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "    executor.close()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3] set()\n", "")
