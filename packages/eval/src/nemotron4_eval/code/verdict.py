"""Whether a model's program passes its tests: run in the sandbox, several at a time.

A program passes if it ends by itself with exit code 0, shows nothing that its language counts as failure, and prints a
marker that is random for every run and only printed once its tests are over (`code.languages`). What this cannot see is
a program written against its tests, e.g. results that claim to equal everything, or one that reads its own file and
puts the marker together.
Invariant: what the sandbox or a toolchain fails at is never counted against a program.
"""

import os
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from nemotron4_common.rules import require
from nemotron4_eval.code.languages import Language
from nemotron4_eval.code.sandbox import Outcome, Sandbox, Status
from nemotron4_eval.code.toolchains import MissingToolchainError, Toolchain, find_toolchain, with_precompiled_header

MAX_TRIES = 3
"""Of a program that the sandbox failed to run."""
STDERR_LINES, STDERR_CHARACTERS = 8, 600
_WORTH_A_HEADER = 16
"""From so many programs on, compiling the header once takes less time than reading it every time."""


@dataclass(frozen=True)
class Candidate:
    """A program in two parts, so that what a model wrote cannot be taken for the tests."""

    before: str
    """The prompt and the completion."""
    tests: str
    """As published."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a program came to."""

    passed: bool | None
    """None where the sandbox failed: there is no verdict."""
    status: Status
    reason: str = ""
    """One line; empty for a program that passed."""
    stderr: str = ""
    """Its first lines."""


def judge(
    name: str,
    candidates: Sequence[Candidate],
    sandbox: Sandbox,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """Verdicts on programs of one language, in their order; equal programs are run once.

    `workers` programs run at a time, by default one a CPU core; `progress` is told how many are done.
    Raises MissingToolchainError if the language's tools are not there, or cannot judge a trial.
    """
    toolchain = tried_toolchain(name, sandbox)
    distinct = list(dict.fromkeys(candidates))
    if len(distinct) >= _WORTH_A_HEADER:
        toolchain = with_precompiled_header(toolchain)
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        verdicts: dict[Candidate, Verdict] = {}
        for candidate, verdict in zip(distinct, pool.map(partial(_judged, toolchain, sandbox), distinct), strict=True):
            verdicts[candidate] = verdict
            progress(len(verdicts))
    return [verdicts[candidate] for candidate in candidates]


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_tried: set[tuple[str, int]] = set()


def tried_toolchain(name: str, sandbox: Sandbox) -> Toolchain:
    """A language's toolchain that tells right from wrong programs in this sandbox, else MissingToolchainError."""
    toolchain = find_toolchain(name)
    key = (name, id(sandbox))
    if key not in _tried:
        before, tests = toolchain.language.trial
        right = _judged(toolchain, sandbox, Candidate(before, tests))
        if not right.passed:
            told = f"its trial ended as {right.status.value}: {right.reason} {right.stderr}".strip()
            raise MissingToolchainError(f"{toolchain.language.title}: found but unusable; {' '.join(told.split())}")
        wrong = _judged(toolchain, sandbox, Candidate(before.replace("2 *", "3 *"), tests))
        if wrong.passed is not False:
            raise MissingToolchainError(f"{toolchain.language.title}: found but unusable; it passes a wrong program")
        _tried.add(key)
    return toolchain


def _judged(toolchain: Toolchain, sandbox: Sandbox, candidate: Candidate) -> Verdict:
    marker = (secrets.token_hex(8), secrets.token_hex(8))
    text = candidate.before + _with_ending(toolchain.language, candidate.tests, marker)
    program = toolchain.program(text.encode("utf-8", "replace").decode())  # lone surrogates cannot be written
    outcome = sandbox.run(program)
    for _ in range(MAX_TRIES - 1):
        if outcome.status is not Status.sandbox_failed:
            break
        outcome = sandbox.run(program)
    return _verdict(toolchain.language, outcome, "".join(marker))


def _with_ending(language: Language, tests: str, marker: tuple[str, str]) -> str:
    """The published tests, followed by what prints the marker; ValueError if they do not end in the published form."""
    place = re.search(language.ending_at, tests)
    rule = f"{language.title}'s tests end otherwise in the published data; take that"
    require(place is not None, "tests", repr(tests[-20:]), rule)
    assert place is not None
    words, addition = language.before_tests
    head = tests[: place.start()].replace(words, addition + words, 1) if words else tests[: place.start()]
    ending = language.ending.replace("{0}", marker[0]).replace("{1}", marker[1])
    return head + ending + tests[place.end() :]


def _verdict(language: Language, outcome: Outcome, marker: str) -> Verdict:
    stdout, stderr = (text.decode("utf-8", "replace") for text in (outcome.stdout, outcome.stderr))
    before_marker, found, _ = (stderr if language.marker_in_stderr else stdout).partition(marker)
    status, reason = outcome.status, outcome.reason
    if status is Status.wrong:
        reason = reason or f"exit code {outcome.exit_code}"
    elif status is Status.ok:
        heard = before_marker if language.marker_in_stderr else stderr
        if language.failure_in_stderr and re.search(language.failure_in_stderr, heard):
            status, reason = Status.wrong, "failed, by what it wrote to stderr"
        elif not found:
            status, reason = Status.wrong, "ended before its tests did, or made assertions do nothing"
    passed = None if status is Status.sandbox_failed else status is Status.ok
    # Some compilers write their errors to stdout.
    shown = "\n".join((stderr or stdout).splitlines()[:STDERR_LINES])[:STDERR_CHARACTERS]
    return Verdict(passed=passed, status=status, reason=reason, stderr="" if passed else shown)
