"""MultiPL-E's programs: prompt, completion up to the item's first stop token, tests."""

from collections.abc import Sequence
from typing import Any

from nemotron4_eval.code.scoring import Answers, Record, cut, run_programs
from nemotron4_eval.code.verdict import Candidate

UNSOLVABLE = {
    ("js", "HumanEval_51_remove_vowels"): "a string of its tests is broken by a line end",
    ("cpp", "HumanEval_137_compare_one"): "its tests use std::nullopt as a type",
    ("php", "HumanEval_23_strlen"): "it declares strlen, which PHP has",
}
"""As published; no answer passes, and the record says so."""


def execute(answers: Answers, items: Sequence[dict[str, Any]]) -> list[list[Record]]:
    """The filter: records of all answers, which are in one language."""
    records = run_programs(items[0]["language"], answers, items, program)
    for item, each in zip(items, records, strict=True):
        if note := UNSOLVABLE.get((item["language"], item["name"])):
            for record in each:
                record["note"] = f"no answer can pass: {note}"
    return records


def program(item: dict[str, Any], answer: str) -> Candidate:
    """The program that an answer makes."""
    return Candidate(item["prompt"] + cut(answer, item["stop_tokens"]) + "\n", item["tests"])
