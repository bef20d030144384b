"""Every command of the README is run, in its order, on the shipped corpus; long ones are cut short by overrides."""

import re
import shlex
from pathlib import Path

import pytest
from smoke import nemotron4

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = {
    "train": ["trainer.max_steps=2", "trainer.validation_bytes_per_source=300"],
    "eval": ["limit=4", "suite.num_items=4", "suite.max_bytes_per_source=500"],
    "generate": ["sampling.max_new_tokens=8"],
}


def readme_commands():
    """Commands in code blocks and in the table, without those on the reader's own files."""
    found = re.findall(r"^\| `(nemotron4 [^`]+)`", TEXT, re.MULTILINE)
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        found += [line for line in block.splitlines() if line.startswith("nemotron4 ")]
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.mark.timeout(900)
def test_the_commands_run_as_written(directory):
    commands = readme_commands()
    assert len(commands) >= 10
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        nemotron4(verb, *arguments, *SHORT.get(verb, []), cwd=directory)
    assert (directory / "runs" / "demo" / "latest" / "report.html").is_file()
    (table,) = (directory / "runs" / "demo").glob("sweep_*/sweep.csv")
    assert len(table.read_text().splitlines()) == 5


def test_nox_sessions_and_links_exist():
    sessions = set(re.findall(r"python -m nox -s (\w+)", TEXT))
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert sessions == {"demo", "tests"}
    for session in sessions:
        assert f"def {session}(session" in noxfile
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_readme_s_test_command():
    assert "python -m nox -s tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
