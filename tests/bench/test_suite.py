"""The runner keeps the old result of a benchmark that fails, says why, and leaves no process behind."""

import json
import signal
import subprocess
import sys
import time

import inputs
import pytest
import suite
from benchmark import Benchmark

OLD = '{"old": true}'
PROGRAMS = {
    "good": "write({'machine': {}, 'commit': 'c', 'left_out': {'theirs': 'not installed'}, 'words': sys.argv[1:-2]})",
    "wrong": "print('what it said'); sys.exit(3)",
    "torn": "open(sys.argv[-1], 'w').write('{')",
    "silent": "",
    "parent": "import subprocess; print(subprocess.Popen(['sleep', '600']).pid); sys.exit(3)",
    "stopped": "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)",
    "last": "",
}
BEGINNING = "import json, sys\ndef write(document): json.dump(document, open(sys.argv[-1], 'w'))\n"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Benchmarks of these names run -> the status and what was said."""
    monkeypatch.setattr(suite, "BENCH", tmp_path)
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(suite, "write_page", lambda results: print(f"page of {results}"))
    monkeypatch.setattr(suite, "SECONDS_LOOKED", 0.02)
    monkeypatch.setattr(inputs, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    for name, program in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(BEGINNING + program)
        (tmp_path / "results" / f"{name}.json").write_text(OLD)
    benchmarks = [Benchmark(name, arguments=("full",), toy=("toy",)) for name in PROGRAMS]
    monkeypatch.setattr(suite, "BENCHMARKS", (*benchmarks, Benchmark("poor", packages=("no_such_package", "json"))))
    before = signal.getsignal(signal.SIGTERM)

    def run(*words):
        status = suite.main(words)
        return status, "".join(capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_result_is_replaced_by_a_whole_one(run, tmp_path):
    status, said = run("good", "poor")
    assert status == 0
    assert "1/2, 0 minutes so far, about 2 left: good" in said
    assert "ok, without theirs (not installed)" in said
    assert "left out: needs no_such_package\n" in said
    assert f"page of {tmp_path / 'results'}" in said
    found = json.loads((tmp_path / "results" / "good.json").read_text())
    assert found["words"] == ["full"]
    assert found["machine"]["busy_cores_before"] >= 0


def test_a_toy_run_leaves_results_and_page_alone(run, tmp_path):
    status, said = run("--toy", "good")
    assert status == 0
    assert "page of" not in said
    assert (tmp_path / "results" / "good.json").read_text() == OLD
    assert json.loads((tmp_path / "build/bench/toy/good.json").read_text())["words"] == ["toy"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong", "    what it said\nended with status 3; see "),
        ("torn", "Expecting property name"),
        ("silent", "wrote no result; see "),
    ],
)
def test_a_failure_costs_only_itself(run, tmp_path, name, reason):
    status, said = run(name, "good")
    assert status == 1
    assert reason in said
    assert "failed\n" in said
    assert f"page of {tmp_path / 'results'}" in said
    assert (tmp_path / "results" / f"{name}.json").read_text() == OLD
    assert (tmp_path / "results" / "good.json").read_text() != OLD


def test_what_a_benchmark_started_ends_with_it(run, tmp_path):
    assert run("parent")[0] == 1
    pid = (tmp_path / "build/bench/full/parent.log").read_text().strip()
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
        if state[:1] in ("", "Z"):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there: {state}")


def test_a_signal_ends_the_run(run, tmp_path):
    status, said = run("stopped", "last")
    assert status == 130
    assert "2/2" not in said
    assert f"page of {tmp_path / 'results'}" in said
    assert (tmp_path / "results" / "stopped.json").read_text() == OLD


def test_an_unknown_name_is_refused_in_one_line(run):
    status, said = run("good", "bad")
    assert status == 2
    assert said == f"bad: no such benchmark; choose from {', '.join((*PROGRAMS, 'poor'))}\n"


def test_an_input_is_whole_or_absent(tmp_path, monkeypatch):
    made = inputs.Inputs(toy=True, directory=tmp_path)

    def maker(path):
        path.mkdir()
        (path / "file").write_text("half")
        if not ready:
            raise subprocess.CalledProcessError(1, [sys.executable], output="no disk")

    made._makers["thing"] = maker
    ready = False
    with pytest.raises(subprocess.CalledProcessError):
        "{thing}".format_map(made)
    assert not (tmp_path / "thing").exists()
    ready = True
    assert "{thing}".format_map(made) == str(tmp_path / "thing")
