"""What tasks whose answers are programs have in common: a filter that runs them, a metric that reads its records.

The filter gets the answers of all items at once, so that programs run several at a time. A record is what the harness
writes beside the answer: passed (null if the sandbox failed), status, reason, stderr.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from nemotron4_eval.code.pass_at_k import pass_at_k
from nemotron4_eval.code.sandbox import current_sandbox
from nemotron4_eval.code.verdict import Candidate, judge

REPORTED_K = (1, 10, 100)
"""pass@k of those k for which there are enough programs."""

Record = dict[str, Any]
Answers = Sequence[Sequence[str]]
"""Of each item, all that were sampled."""


def run_programs(
    language: str, answers: Answers, items: Sequence[Mapping[str, Any]], build: Callable[[Any, str], Candidate]
) -> list[list[Record]]:
    """Records of all answers; `build` makes a program of an item and an answer."""
    # What the harness shows progress with.
    from tqdm import tqdm  # type: ignore[import-untyped]  # it has no types

    candidates = [[build(item, answer) for answer in each] for item, each in zip(items, answers, strict=True)]
    with tqdm(desc=f"{language} programs", total=len(set(chain.from_iterable(candidates))), disable=None) as bar:
        verdicts = judge(
            language, list(chain.from_iterable(candidates)), current_sandbox(), progress=lambda done: bar.update(1)
        )
    if unknown := [each for each in verdicts if each.passed is None]:
        told = f"the sandbox failed at {len(unknown)} of {len(verdicts)} programs, which do not count"
        logging.getLogger(__name__).warning("%s: %s (%s)", language, told, unknown[0].reason)
    records = iter(
        {"passed": each.passed, "status": each.status.value, "reason": each.reason, "stderr": each.stderr}
        for each in verdicts
    )
    return [[next(records) for _ in each] for each in candidates]


def score(item: Mapping[str, Any], results: Sequence[Sequence[Record]]) -> dict[str, float]:
    """pass@k of an item, from its programs that have a verdict; empty if none has: the item then does not count."""
    passed = [record["passed"] for record in results[0] if record["passed"] is not None]
    return {f"pass@{k}": pass_at_k(len(passed), sum(passed), k) for k in REPORTED_K if k <= len(passed)}


def cut(answer: str, stops: Sequence[str]) -> str:
    """An answer up to the first of the strings that end it."""
    return answer[: min((place for stop in stops if (place := answer.find(stop)) >= 0), default=len(answer))]
