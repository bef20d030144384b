"""HumanEval's programs: prompt, completion, tests, and a call of the tests."""

from collections.abc import Sequence
from typing import Any

from nemotron4_eval.code.scoring import Answers, Record, cut, run_programs
from nemotron4_eval.code.verdict import Candidate

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""As in the YAML; models that stop later give the same program."""


def execute(answers: Answers, items: Sequence[dict[str, Any]]) -> list[list[Record]]:
    """The filter: records of all answers."""
    return run_programs("python", answers, items, program)


def program(item: dict[str, Any], answer: str) -> Candidate:
    """The program that an answer makes."""
    tests = f"\n{item['test']}\ncheck({item['entry_point']})\n"
    return Candidate(item["prompt"] + cut(answer, STOPS), tests)
