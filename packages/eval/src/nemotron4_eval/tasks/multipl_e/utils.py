"""MultiPL-E's programs: prompt, completion up to the item's first stop token, tests."""

from collections.abc import Sequence
from typing import Any

from nemotron4_eval.code.scoring import Answers, Record, cut, run_programs
from nemotron4_eval.code.verdict import Candidate

_BROKEN_PROMPT = "its prompt is not Julia"
_NOT_IN_OPTION = "it compares an Option with what it holds"
_NOT_IN_EITHER = "it compares an Either with what it holds"
_OTHER_TUPLE = "it compares tuples of different types"
UNSOLVABLE = {
    "js": {51: "a string of its tests is broken by a line end"},
    "cpp": {137: "its tests use std::nullopt as a type"},
    "php": {23: "it declares strlen, which PHP has"},
    "jl": {95: _BROKEN_PROMPT, 111: _BROKEN_PROMPT},
    "java": {136: _OTHER_TUPLE},
    "cs": {12: "it calls a method of null", 136: _OTHER_TUPLE, 162: "it calls a method of null"},
    "scala": {
        **dict.fromkeys((12, 90, 128, 162), _NOT_IN_OPTION),
        **dict.fromkeys((103, 125), _NOT_IN_EITHER),
        136: _OTHER_TUPLE,
    },
}
"""By the number of HumanEval's problem: as published no answer passes, and the record says so."""


def execute(answers: Answers, items: Sequence[dict[str, Any]]) -> list[list[Record]]:
    """The filter: records of all answers, which are in one language."""
    records = run_programs(items[0]["language"], answers, items, program)
    for item, each in zip(items, records, strict=True):
        if note := UNSOLVABLE.get(item["language"], {}).get(int(item["name"].split("_")[1])):
            for record in each:
                record["note"] = f"no answer can pass: {note}"
    return records


def program(item: dict[str, Any], answer: str) -> Candidate:
    """The program that an answer makes."""
    return Candidate(item["prompt"] + cut(answer, item["stop_tokens"]) + "\n", item["tests"])
