"""The marker `requires(gpu=N)` of tests/conftest.py, in runs of pytest whose torch says that there is one GPU."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import os, subprocess, sys
import pytest

def seen_by_child():
    script = "import os; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()

def test_of_a_cpu():
    assert (os.environ["CUDA_VISIBLE_DEVICES"], seen_by_child()) == ("", "''")

@pytest.mark.requires(gpu=1)
def test_of_one_gpu():
    assert (os.environ["CUDA_VISIBLE_DEVICES"], seen_by_child()) == ("3", "'3'")

@pytest.mark.requires(gpu=2)
def test_of_two():
    raise AssertionError("there is one")
"""
TORCH = "class cuda: device_count = staticmethod(lambda: 1)"


@pytest.mark.parametrize(
    ("options", "outcomes", "reasons"),
    [
        (["-n", "1"], {"passed": 1, "skipped": 2}, ["*needs 1 GPU: run pytest --gpu"]),
        (["--gpu"], {"passed": 1, "skipped": 1, "deselected": 1}, ["*needs 2 GPUs: this machine has 1"]),
    ],
)
def test_only_tests_that_ask_for_a_gpu_see_one(pytester, monkeypatch, options, outcomes, reasons):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text())
    pytester.makepyfile(test_it=TESTS, torch=TORCH)
    result = pytester.runpytest_subprocess("-rs", *options)
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(reasons)
