"""Sweeps of a verb that costs nothing: one directory, rows, limits, reruns, signals, locks, Optuna."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fake_verb import await_file, fake_verb

from nemotron4_config.sweep import sweep_name

pytestmark = pytest.mark.timeout(120)
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    """Below it the sweeps write; the jobs, processes of their own, find the verb's module too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def start(*overrides):
    """A sweep in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fake_verb", *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def jobs(capsys):
    """What the terminal said of each job at its end."""
    return re.findall(r"^job (.*?)(?: in [0-9.]+ s)?$", capsys.readouterr().err, re.MULTILINE)


def results():
    (sweep,) = Path("runs/sweep").glob("sweep_*")
    return {path.parent.name[:5]: json.loads(path.read_text()) for path in sorted(sweep.glob("job_*/result.json"))}


def test_one_directory_a_sweep_and_no_hydra_in_a_job(capsys):
    assert fake_verb("-m", "x=1,2") == 0
    sweep = Path("runs/sweep") / sweep_name("fake", [f"--config-dir={Path('conf').resolve()}", "x=1,2"])
    assert list(Path("runs/sweep").iterdir()) == [sweep]
    first, second = sorted(sweep.glob("job_*"))
    assert sorted(path.name for path in first.iterdir()) == ["output.log", "result.json", "sweep_job.yaml"]
    assert jobs(capsys) == [
        f"0 (x=1) started in {first}",
        "0 (x=1) complete: 0",
        f"1 (x=2) started in {second}",
        "1 (x=2) complete: 0",
    ]


def test_failed_jobs_are_rows_and_the_sweep_goes_on(capsys):
    assert fake_verb("-m", "x=1,-1", "action=raise,die,end") == 1
    said = [line for line in jobs(capsys) if "started" not in line]
    bad = [(3, "raise"), (4, "die"), (5, "end")]
    killed = "the job was killed by SIGKILL; its output.log has its last lines"
    assert said == [
        *(f"{i} (x=-1 action={name}) failed: x (-1.0): must be at least 0" for i, name in bad),
        "0 (x=1 action=raise) failed: of its own accord",
        f"1 (x=1 action=die) failed: {killed}",
        "2 (x=1 action=end) complete: 0",
    ]  # fmt: skip
    (sweep,) = Path("runs/sweep").glob("sweep_*")
    (log,) = sweep.glob("job_0_*/output.log")
    assert log.read_text().startswith("threads: None\nTraceback (most recent call last):\n")
    assert {name: result["error"] for name, result in results().items()} == {
        "job_0": "of its own accord",
        "job_1": killed,
        "job_2": None,
    }


def test_an_objective_that_is_not_a_number_is_a_failure(capsys):
    assert fake_verb("-m", "x=nan", "action=x") == 1
    assert jobs(capsys)[-1] == "0 () failed: the objective is nan"


def test_a_rerun_skips_what_is_complete_and_runs_again_what_failed(capsys):
    assert fake_verb("-m", "action=end,raise", "x=1") == 1
    capsys.readouterr()
    Path("go").touch()
    assert fake_verb("x=1", "launcher.max_jobs_at_once=2", "action=end,raise", "--multirun") == 0
    (sweep,) = Path("runs/sweep").glob("sweep_*")
    (again,) = sweep.glob("job_1_*")
    assert jobs(capsys) == [
        "0 (action=end) already complete: 0",
        f"1 (action=raise) started in {again}",
        "1 (action=raise) complete: 0",
    ]


def test_a_job_that_told_no_objective_runs_again(capsys):
    for _ in range(2):
        assert fake_verb("-m", "x=1", "action=say") == 0
        assert [line.split(" ")[2] for line in jobs(capsys)] == ["started", "complete"]


def test_what_makes_a_sweep_another_one():
    command = ["-m", "a=1,2", "b=3"]
    assert sweep_name("train", command) == sweep_name("train", ["b=3", "launcher=slurm", "--multirun", "a=1,2"])
    assert len({sweep_name(*what) for what in (("train", command), ("eval", command), ("train", ["-m", "a=1,2"]))}) == 3
    assert re.fullmatch(r"sweep_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", sweep_name("train", [*command, "resume=never"]))


def test_a_job_that_is_composed_otherwise_does_not_take_another_one_s_result(capsys):
    assert fake_verb("-m", "action=x") == 0
    Path("conf", "fake.yaml").write_text("")  # as rewritten by its author, with another default
    import fake_verb as module

    default, module.YAML = module.YAML, module.YAML + "x: 2\n"
    try:
        assert fake_verb("-m", "action=x") == 0
    finally:
        module.YAML = default
    assert [line for line in jobs(capsys) if "complete" in line] == ["0 () complete: 1", "0 () complete: 2"]


def test_so_many_jobs_at_once_and_no_more():
    assert fake_verb("-m", "x=1,2,3,4", "action=overlap", "launcher.max_jobs_at_once=2") == 0
    events = Path("events").read_text()
    running = [events[: i + 1].count("+") - events[: i + 1].count("-") for i in range(len(events))]
    assert max(running) == 2
    (sweep,) = Path("runs/sweep").glob("sweep_*")
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {log.read_text() for log in sweep.glob("job_*/output.log")} == {f"threads: {threads}\n"}


def test_threads_that_the_user_chose_are_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert fake_verb("-m", "x=1,2", "launcher.max_jobs_at_once=2") == 0
    (sweep,) = Path("runs/sweep").glob("sweep_*")
    assert {log.read_text() for log in sweep.glob("job_*/output.log")} == {"threads: 7\n"}


def test_at_least_one_job_at_once(capsys):
    assert fake_verb("-m", "x=1,2", "launcher.max_jobs_at_once=0") == 2
    assert capsys.readouterr().err == "nemotron4 fake: hydra.launcher.max_jobs_at_once (0): must be at least 1\n"


def test_one_job_at_a_time_shows_its_output(capsys):
    assert fake_verb("-m", "x=1,2") == 0
    assert capsys.readouterr().out == "threads: None\n" * 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_jobs_and_the_same_command_goes_on(number, status):
    action = "action=wait" if number == signal.SIGTERM else "action=wait,end"
    sweep = start("-m", "x=1,2", action)
    await_file(Path("started-1").exists)
    sweep.send_signal(number)
    said = sweep.communicate(timeout=60)[1]
    assert sweep.returncode == status, said
    assert "job 0" in said
    assert said.endswith("sweep stopped; run the same command to resume\n")
    assert Path("saved").exists() == (number == signal.SIGTERM)
    assert not Path("started-2").exists()
    assert results()["job_0"]["error"] == "ended by a signal; the same command resumes it"
    Path("go").touch()
    again = start("-m", "x=1,2", action)
    said = again.communicate(timeout=60)[1]
    assert again.returncode == 0, said
    assert {result["error"] for result in results().values()} == {None}


def test_jobs_die_with_their_sweep():
    sweep = start("-m", "x=1", "action=wait")
    await_file(lambda: Path("started-1").exists() and bool(Path("started-1").read_text()))
    pid = Path("started-1").read_text()
    sweep.kill()
    sweep.communicate()
    stat = Path("/proc", pid, "stat")
    await_file(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX")


def test_a_second_launch_of_the_same_sweep_is_one_line(capsys):
    sweep = start("-m", "x=1", "action=wait")
    await_file(Path("started-1").exists)
    assert fake_verb("-m", "action=wait", "x=1") == 2
    (directory,) = Path("runs/sweep").glob("sweep_*")
    assert capsys.readouterr().err == (
        f"nemotron4 fake: hydra.sweep.dir ({directory}): in use by process {sweep.pid} on {socket.gethostname()}:"
        " wait for it to end, or choose another hydra.sweep.dir\n"
    )
    Path("go").touch()
    sweep.communicate(timeout=60)
    assert sweep.returncode == 0


def test_a_folder_that_is_no_sweep_is_refused(capsys):
    Path("mine").mkdir()
    Path("mine/sweep.csv").write_text("mine")
    assert fake_verb("-m", "x=1", "hydra.sweep.dir=mine") == 2
    assert capsys.readouterr().err == (
        "nemotron4 fake: hydra.sweep.dir (mine): contains sweep.csv, which this program did not create:"
        " give a directory that is empty or does not exist\n"
    )
    assert os.listdir("mine") == ["sweep.csv"]
    assert fake_verb("-m", "x=1", "hydra.sweep.dir=") == 2
    assert capsys.readouterr().err == (
        "nemotron4 fake: hydra.sweep.dir (''): must name a directory; leave it out for one below run.root\n"
    )


def test_jobs_that_run_elsewhere(capsys):
    assert fake_verb("-m", "x=1,2", "action=submit", run_jobs="fake_verb:run_elsewhere") == 1
    assert jobs(capsys) == ["1 (x=2) failed: lost its node", "0 (x=1) complete: 1"]
    assert not Path("started-1").exists()
    assert fake_verb("-m", "x=1,2", "action=submit", run_jobs="fake_verb:run_elsewhere") == 1
    assert jobs(capsys) == ["0 (x=1) already complete: 1", "1 (x=2) failed: lost its node"]


def test_jobs_that_nobody_takes_run_here():
    assert fake_verb("x=1", "-m", "action=end", run_jobs="fake_verb:run_elsewhere") == 0
    assert Path("started-1").exists()


def test_another_launcher_of_hydra_is_refused(capsys):
    assert fake_verb("-m", "x=1", "hydra/launcher=basic") == 2
    assert capsys.readouterr().err.endswith("nemotron4 fake: hydra/launcher: sweeps run on hydra/launcher=processes\n")


def test_optuna_goes_on_after_failed_trials_and_a_rerun_finds_its_trials():
    search = (
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "action=x"),
        'hydra.sweeper.params={x: "choice(4,nan,-1,2)"}',
    )
    first = start(*search)
    said = first.communicate(timeout=100)[1]
    assert first.returncode == 1, said
    assert "failed: the objective is nan" in said or "failed: x (-1.0)" in said
    (found,) = Path("runs/sweep").glob("sweep_*/optimization_results.yaml")
    assert "best_value: 2.0" in found.read_text() or "best_value: 4.0" in found.read_text()
    again = start(*search)
    said_again = again.communicate(timeout=100)[1]
    assert said_again.count("already complete") == said.count(") complete: ") > 0
