"""Verdicts on Python programs, and toolchains that are absent, broken or fail at times."""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from programs import shared_sandbox

from nemotron4_eval.code import scoring, verdict
from nemotron4_eval.code.languages import LANGUAGES
from nemotron4_eval.code.sandbox import Outcome, Sandbox, Status, use_sandbox
from nemotron4_eval.code.toolchains import MissingToolchainError, find_toolchain
from nemotron4_eval.code.verdict import Candidate, judge

TESTS = "\n\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n\ncheck(twice)\n"
HEAD = "def twice(n):\n"
CHEATS = {
    "leaves before the asserts": "    import os; os._exit(0)",
    "leaves with success": "    raise SystemExit(0)",
    "prints success": "    print('OK. All tests passed.'); raise SystemExit",
    "leaves with success in the end": "    return 0\nimport atexit, os\natexit.register(os._exit, 0)",
    "hides the failure": "    return 0\nimport os, sys\nsys.excepthook = lambda *failure: os._exit(0)",
    "has another AssertionError": "    return 0\nimport builtins\nbuiltins.AssertionError = KeyError",
    "prints its own text": "    print(open(__file__).read()); raise SystemExit",
    "ends in a thread": "    return 0\nimport os, threading\nthreading.Timer(0, os._exit, [0]).start()",
}


class Failing(Sandbox):
    """The shared sandbox, which fails at the first runs of all programs but those of trials."""

    def __init__(self, failures):
        self.failures, self.runs, self.level = failures, 0, shared_sandbox().level

    def run(self, program):
        if any("3 * n" in text or "2 * n" in text for text in program.files.values()):
            return shared_sandbox().run(program)
        self.runs += 1
        if self.runs <= self.failures:
            return Outcome(
                status=Status.sandbox_failed, exit_code=None, stdout=b"", stderr=b"", seconds=0, reason="no memory"
            )
        return shared_sandbox().run(program)


def judged(bodies, sandbox=None):
    return judge("python", [Candidate(HEAD + body, TESTS) for body in bodies], sandbox or shared_sandbox())


def test_right_and_wrong_programs_are_told_apart():
    right, wrong, broken = judged(["    return n + n", "    return n * n", "    return n +"])
    assert (right.passed, right.status, right.reason, right.stderr) == (True, Status.ok, "", "")
    assert (wrong.passed, wrong.status) == (False, Status.wrong)
    assert "AssertionError" in wrong.stderr
    assert "SyntaxError" in broken.stderr


def test_a_right_program_may_replace_what_prints():
    bodies = (
        "    return n + n\ndef print(*words): pass",
        "    return n + n\nimport io, sys\nsys.stdout = io.StringIO()",
    )
    assert [each.passed for each in judged(bodies)] == [True, True]


def test_cheats_do_not_pass():
    verdicts = dict(zip(CHEATS, judged(CHEATS.values()), strict=True))
    assert {name: verdict.passed for name, verdict in verdicts.items()} == dict.fromkeys(CHEATS, False)
    assert verdicts["prints success"].reason == "ended before its tests did, or made assertions do nothing"


def test_equal_programs_run_once():
    sandbox, done = Failing(0), []
    candidates = [Candidate(HEAD + body, TESTS) for body in ("    return n + n", "    pass", "    return n + n")]
    verdicts = judge("python", candidates, sandbox, progress=done.append)
    assert [each.passed for each in verdicts] == [True, False, True]
    assert (sandbox.runs, done) == (2, [1, 2])


def test_a_sandbox_that_fails_is_asked_again_and_never_counts_against_a_program():
    (verdict,) = judged(["    return n + n"], Failing(2))
    assert verdict.passed is True
    (verdict,) = judged(["    return n + n"], Failing(10))
    assert (verdict.passed, verdict.status, verdict.reason) == (None, Status.sandbox_failed, "no memory")


def test_programs_without_a_verdict_do_not_count_and_are_told_of(caplog):
    use_sandbox(Failing(10))
    records = scoring.run_programs(
        "python", [["    return n + n"]], [{}], lambda _, body: Candidate(HEAD + body, TESTS)
    )
    assert records == [[{"passed": None, "status": "sandbox failed", "reason": "no memory", "stderr": ""}]]
    assert "python: the sandbox failed at 1 of 1 programs, which do not count (no memory)" in caplog.text
    record = {"passed": True}
    assert scoring.score({}, [[{"passed": None}, record]]) == {"pass@1": 1.0}
    assert scoring.score({}, [[{"passed": None}]]) == {}
    assert scoring.score({}, [[record] * 3 + [{"passed": False}] * 9]) == pytest.approx(
        {"pass@1": 0.25, "pass@10": 1.0}
    )


def test_absent_tools_are_named_with_what_brings_them(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for name, language in LANGUAGES.items():
        if name == "python":
            continue
        with pytest.raises(MissingToolchainError) as raised:
            find_toolchain(name)
        assert str(raised.value).startswith(f"{language.title}: ")
        assert "\n" not in str(raised.value)
    with pytest.raises(
        MissingToolchainError, match=r"^Julia: julia not found; unpack an archive of https://julialang"
    ) as raised:
        find_toolchain("jl")
    assert raised.value.command.startswith("unpack an archive")
    with pytest.raises(MissingToolchainError, match=r"^C\+\+: g\+\+ not found; apt-get install g\+\+$") as raised:
        find_toolchain("cpp")
    assert raised.value.command == "apt-get install g++"


def test_an_unknown_language_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"^language \(cobol\): its programs cannot be run; languages are python, sh"):
        find_toolchain("cobol")


@pytest.mark.parametrize(
    ("script", "told"), [("exit 0", "ended before"), ("echo no license >&2; exit 3", "no license")]
)
def test_a_tool_that_does_not_work_is_missing_and_makes_no_program_wrong(monkeypatch, script, told):
    monkeypatch.setattr(verdict, "_tried", set())
    with TemporaryDirectory() as directory:
        tool = Path(directory, "bash")
        tool.write_text(f"#!/bin/sh\n{script}\n")
        for path in (tool, Path(directory)):
            path.chmod(0o755)  # programs run as another user
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(MissingToolchainError, match=f"^Shell: found but unusable; its trial ended as .*{told}"):
            judge("sh", [Candidate(*LANGUAGES["sh"].trial)], shared_sandbox())


def test_tests_of_another_form_are_refused():
    with pytest.raises(
        ValueError, match=r"tests \('int main\(\);'\): C\+\+'s tests end otherwise in the published data"
    ):
        verdict._with_ending(LANGUAGES["cpp"], "int main();", ("a", "b"))


def test_the_documentation_names_each_tool_and_time_limit():
    page = (Path(__file__).parents[3] / "docs" / "programs.md").read_text(encoding="utf-8")
    for language in LANGUAGES.values():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {language.title} |"))
        assert row.endswith(f" {language.seconds} |")
        if language.name == "python":
            continue
        packages = {package for tool in language.tools.values() for package in tool.debian.split()}
        assert packages - {"scala-library"} <= set(re.findall(r"`([\w.+-]+)`", row))  # scala brings it
