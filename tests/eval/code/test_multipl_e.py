"""Our solutions of three MultiPL-E problems in each language, right, wrong and cheating, on the published items."""

import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from evalsets import evalsets
from programs import shared_sandbox

from nemotron4_eval.code import verdict
from nemotron4_eval.code.languages import LANGUAGES, MULTIPL_E
from nemotron4_eval.code.toolchains import MissingToolchainError, find_toolchain, with_precompiled_header
from nemotron4_eval.code.verdict import judge
from nemotron4_eval.suites.suite import TASKS_DIR
from nemotron4_eval.tasks.multipl_e.utils import UNSOLVABLE, execute, program

SOLUTIONS = Path(__file__).parent / "solutions"
FAST = ("sh", "lua", "php", "js", "jl")
NAMES = [language.name for language in MULTIPL_E]
SLOWER = sorted({*NAMES} - {*FAST})
"""Those that compile or start for a second or more; what else than "good" and "bad" they have is for `nox -s code`."""
SLOWEST = "scala"
"""Its compiler takes twice as long as any other: all of it is for `nox -s code`."""


def items(language):
    lines = evalsets("multipl-e", f"humaneval-{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return {item["name"]: item for item in map(json.loads, lines)}


def solutions(language):
    """(problem, what it is, completion); only what is called good may pass."""
    text = (SOLUTIONS / f"{language}.txt").read_text(encoding="utf-8")
    return re.findall(r"^==== (\S+) (.*)\n([\s\S]*?)(?=^====|\Z)", text, re.MULTILINE)


def skip_without_tools(language):
    try:
        find_toolchain(language)
    except MissingToolchainError as error:
        pytest.skip(str(error))


def check(language, chosen):
    published = items(language)
    skip_without_tools(language)
    verdicts = judge(language, [program(published[name], text) for name, _, text in chosen], shared_sandbox())
    found = {(name, kind): (each.passed, each) for (name, kind, _), each in zip(chosen, verdicts, strict=True)}
    wrong = {key: each for key, (passed, each) in found.items() if passed is not (key[1] == "good")}
    assert not wrong


@pytest.mark.parametrize("language", FAST)
def test_solutions_are_told_apart(language):
    check(language, solutions(language))


@pytest.mark.parametrize("language", sorted({*SLOWER} - {SLOWEST}))
def test_good_and_bad_solutions_of_a_slower_language_are_told_apart(language):
    check(language, [solution for solution in solutions(language) if solution[1] in ("good", "bad")])


@pytest.mark.slow
@pytest.mark.parametrize("language", SLOWER)
def test_all_solutions_of_a_slower_language_are_told_apart(language):
    check(language, solutions(language))


@pytest.mark.slow
def test_a_header_compiled_once_is_used_and_changes_no_verdict():
    again = [(name, kind, f"    // again\n{text}") for name, kind, text in solutions("cpp")]
    check("cpp", solutions("cpp") + again)
    toolchain = with_precompiled_header(find_toolchain("cpp"))
    assert Path(toolchain.paths["headers"], "bits", "stdc++.h.gch").stat().st_size > 1_000_000
    (*command, _) = toolchain.program("#include <bits/stdc++.h>\nint main() {}\n").commands
    with TemporaryDirectory() as directory:
        Path(directory, "main.cpp").write_text("#include <bits/stdc++.h>\nint main() {}\n")
        read = subprocess.run([*command[0], "-H"], cwd=directory, capture_output=True, text=True, check=True).stderr
    assert read.startswith(f"! {toolchain.paths['headers']}/bits/stdc++.h.gch")  # gcc's mark of one that it uses


@pytest.mark.parametrize("language", NAMES)
def test_every_language_has_three_problems_solved_and_not(language):
    kinds = [(name, kind) for name, kind, _ in solutions(language)]
    problems = {name for name, _ in kinds}
    assert len(problems) == 3
    assert {(name, kind) for name in problems for kind in ("good", "bad")} <= set(kinds)


@pytest.mark.parametrize("language", NAMES)
def test_published_items_end_and_stop_as_the_task_says(language):
    published = items(language).values()
    until = yaml.safe_load((TASKS_DIR / "multipl_e" / f"multipl_e_{language}.yaml").read_text())["generation_kwargs"][
        "until"
    ]
    for item in published:
        assert item["language"] == language
        assert item["stop_tokens"] == until
        text = verdict._with_ending(LANGUAGES[language], item["tests"], ("first", "second"))
        assert len(re.findall(r"first\W+second", text)) == 1
        assert "firstsecond" not in text
    numbers = {int(item["name"].split("_")[1]) for item in published}
    assert set(UNSOLVABLE.get(language, {})) <= numbers


def test_a_problem_that_cannot_be_solved_is_noted():
    published = items("js")["HumanEval_51_remove_vowels"]
    ((record,),) = execute([["  return text.replace(/[aeiou]/gi, '');\n}"]], [published])
    assert record["passed"] is False
    assert record["note"] == "no answer can pass: a string of its tests is broken by a line end"
