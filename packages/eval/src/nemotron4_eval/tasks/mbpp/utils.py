"""MBPP's examples and programs."""

import ast
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemotron4_eval.code.scoring import Answers, Record, cut, run_programs
from nemotron4_eval.code.verdict import Candidate


def examples() -> list[dict[str, Any]]:
    """The harness's three, read without running its module, which would ask the hub for a metric."""
    harness = find_spec("lm_eval")
    assert harness, "it calls this"
    assert harness.origin, "it is a package with a file"
    tree = ast.parse(Path(harness.origin).with_name("tasks").joinpath("mbpp", "utils.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if getattr(node, "name", "") == "list_fewshot_samples")
    (result,) = (node.value for node in ast.walk(function) if isinstance(node, ast.Return))
    assert result is not None, "it returns a literal"
    return list(ast.literal_eval(result))


def execute(answers: Answers, items: Sequence[dict[str, Any]]) -> list[list[Record]]:
    """The filter: records of all answers."""
    return run_programs("python", answers, items, program)


def program(item: dict[str, Any], answer: str) -> Candidate:
    """The program that an answer makes: it, then what prepares the tests, then the three tests."""
    tests = "\n".join(("", item["test_setup_code"], *item["test_list"], ""))
    return Candidate(cut(answer, ("[DONE]",)), tests)
