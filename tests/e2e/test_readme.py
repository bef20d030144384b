"""Every command of README and docs composes; those of docs/command_line.md and of the tutorials are run as written.

They run in the order of their page, on the shipped corpus; long ones are cut short by overrides.
"""

import ast
import csv
import json
import re
import shutil

import pytest
from composed import composed
from pages import DOCS, PAGES, ROOT, block_commands, inline_commands, jobs_of, table_commands, words
from verb import nemotron4

from nemotron4_train.plan.tables import show
from nemotron4_train.schedule import Timeline

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
SHORT = {
    "train": ["trainer.max_steps=2", "trainer.validation_bytes_per_source=300"],
    "eval": ["suite.limit=4", "suite.num_items=4", "suite.max_bytes_per_source=500"],
    "generate": ["sampling.max_new_tokens=8"],
}


TOUR = TEXTS[DOCS / "command_line.md"]
RUN = [*table_commands(TOUR), *block_commands(TOUR)]
(TRY_NEXT,) = re.findall(r"^TRY_NEXT = (\(.*?^\))$", (ROOT / "noxfile.py").read_text(), re.DOTALL | re.MULTILINE)
ALL = {command for text in TEXTS.values() for command in block_commands(text) + inline_commands(text)}
ALL |= {f"nemotron4 {line}" for line in ast.literal_eval(TRY_NEXT)}  # with which the demo ends


def run(commands, directory):
    for command in commands:
        verb, arguments = words(command)
        short = [] if "experiment=smoke" in arguments else SHORT.get(verb, [])
        nemotron4(*verb.split("_"), *arguments, *short, cwd=directory)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the commands are run: `texts/` is the reader's own text."""
    path = tmp_path_factory.mktemp("readme")
    nemotron4("prepare", cwd=path)  # whose English is the text
    heldout = shutil.ignore_patterns("*.heldout.*")
    shutil.copytree(path / "data/sample/documents/english", path / "texts", ignore=heldout)
    return path


@pytest.mark.parametrize("command", sorted(ALL - set(RUN)), ids=lambda command: command[:60])
def test_a_command_composes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, arguments = words(command)
    for job in jobs_of(arguments):
        composed(verb, *job)


@pytest.mark.timeout(1_200)
def test_the_tour_of_the_command_line_runs_as_written(directory):
    assert len(RUN) == 12
    run(RUN, directory)
    assert (directory / "runs" / "demo" / "latest" / "report.html").is_file()
    (table,) = (directory / "runs" / "demo").glob("sweep_*/sweep.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["model"], row["optimizer.lr"], row["state"]) for row in rows] == [
        (model, rate, "complete") for model in ("nano_1m", "nano_3m") for rate in ("0.001", "0.003")
    ]
    assert len({row["objective"] for row in rows}) == 4


@pytest.mark.slow
def test_the_commands_on_the_planner_s_page_plan(tmp_path, monkeypatch):
    """Without dry runs, which take minutes at the paper's size."""
    monkeypatch.chdir(tmp_path)
    commands = [words(command) for command in block_commands(TEXTS[DOCS / "planner.md"]) if "dry_run" not in command]
    planned = [arguments for verb, arguments in commands if verb == "plan"]
    assert len(planned) >= 5
    for arguments in planned:
        show(composed("plan", *arguments))
    record = json.loads((tmp_path / "runs" / "nemotron4_15b_campaign" / "plan.json").read_text(encoding="utf-8"))
    assert len(record["legs"]) == 3


def test_the_checkpoints_that_the_tutorial_resumes_from_end_their_runs():
    text = TEXTS[DOCS / "tutorials" / "continued_training.md"]
    ends = {
        f"{Timeline(composed('train', *words).schedule).num_steps:08d}"
        for words in (["experiment=smoke"], ["experiment=demo", "schedule=nemotron4_8t_twin"])
    }
    assert set(re.findall(r"checkpoints/step-(\d+)", text)) == ends


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_the_tutorials_run_on_a_cpu(directory):
    """In their order, without what needs a GPU, Debian, files of the reader or a run at full length."""
    left_out = re.compile(r"debian|h100|minitron|twin|/control/|dump/|my_task|prompt_file")
    for name in ("one_gpu", "own_data", "continued_training", "evaluation"):
        text = TEXTS[DOCS / "tutorials" / f"{name}.md"].replace(" topology=h100_x1 precision=bf16", "")
        commands = [command for command in block_commands(text) if not left_out.search(command)]
        assert len(commands) >= 3
        run(commands, directory)


def test_the_readme_begins_with_the_demo_the_tests_and_the_install():
    blocks = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert blocks[:3] == [
        "python -m pip install nox && python -m nox -s demo\n",
        "python -m nox -s tests\n",
        "python -m pip install -r requirements.txt\n",
    ]


def test_nox_sessions_exist():
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = {name for text in TEXTS.values() for name in re.findall(r"nox -s \"?(\w+)", text)}
    assert {"demo", "tests", "docs"} <= sessions
    for name in sessions:
        assert f"def {name}(session" in noxfile, name


def test_links_lead_somewhere():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page}: {target}"


def test_ci_runs_the_readme_s_test_command():
    assert "python -m nox -s tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
