"""Harness tasks run on a model, offline.

Invariant: only the given task files are read: the harness's own task index is not loaded, and nothing is downloaded.
An item one of whose requests failed counts as wrong.
"""

import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from nemotron4_eval.harness.gold import METRIC as GOLD_METRIC
from nemotron4_eval.harness.gold import GoldBits, gold_bits_per_byte
from nemotron4_eval.harness.model import EngineLM, request_name

_SHUFFLE_SEEDS = (0, 1234)
"""Of Python's and numpy's generators, for tasks that shuffle by them: lm-eval's defaults."""


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """What the harness gave for one task, or for one group of tasks, which has no samples."""

    metrics: dict[str, float | None]
    """By metric, with its filter unless that is none: acc, `exact_match,strict`; and `gold_bits_per_byte`."""
    stderrs: dict[str, float | None]
    """Standard errors of the same names."""
    items: int
    version: str
    samples: list[dict[str, Any]]
    """Per-item records of the harness, each with the exact prompt; not printed, but written beside the result. Where a
    prompt lost its beginning, `cut` is true, and where a request failed, `failed` says why."""
    cut_items: int = 0
    failed_items: int = 0
    shots: int | None = None
    """Examples in the prompt; None for a group whose tasks differ."""
    shots_from: str = ""
    """The split that they were drawn from, where the task looks for one; empty where its YAML fixes it."""


def run_tasks(
    lm: EngineLM, tasks: Sequence[str | dict[str, Any] | Task | Group], *, limit: int | None = None, seed: int = 1234
) -> dict[str, TaskRun]:
    """Run tasks given as YAML paths, configurations (`load_yaml`'s dictionaries) or the harness's own objects.

    Results are by name, those of groups included. All their requests are looked at together. `seed` draws few-shot
    examples.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm.cuts.clear()
    lm.failures.clear()
    with shuffle_seeds():
        loaded = TaskManager(include_defaults=False).load(list(tasks))
        for task in loaded["tasks"].values():
            prepare(task, seed)
        results = evaluate(lm, loaded, limit=limit, bootstrap_iters=1_000, log_samples=True)
        gold = gold_bits_per_byte(lm, loaded["tasks"])
    assert results is not None
    return {name: _task_run(name, results, lm, gold.get(name)) for name in results["results"]}


@contextmanager
def shuffle_seeds() -> Iterator[None]:
    """The generators that tasks may shuffle by, seeded; they are the caller's again after."""
    python, legacy = random.getstate(), np.random.get_state()
    random.seed(_SHUFFLE_SEEDS[0])
    np.random.seed(_SHUFFLE_SEEDS[1])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def prepare(task: Task, seed: int) -> None:
    """As `simple_evaluate` does, and let an item count as wrong if a request of it failed."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)
    process_results, higher_is_better = task.process_results, task.higher_is_better()

    def process(doc: Any, results: Any) -> dict[str, Any]:
        with np.errstate(invalid="ignore"):  # where every option failed, the harness subtracts infinities
            metrics: dict[str, Any] = process_results(doc, results)
        if any(isinstance(each, tuple) and each[0] == -math.inf for each in results):
            for name, value in metrics.items():
                if isinstance(value, int | float | np.number) and higher_is_better.get(name, True):
                    metrics[name] = 0.0
        return metrics

    task.process_results = process


def _task_run(name: str, results: dict[str, Any], lm: EngineLM, gold: GoldBits | None) -> TaskRun:
    values, samples = results["results"][name], results["samples"].get(name, [])
    metrics: dict[str, float | None] = {}
    stderrs: dict[str, float | None] = {}
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma:
            continue
        of, is_stderr = metric.removesuffix("_stderr"), metric.endswith("_stderr")
        number = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        (stderrs if is_stderr else metrics)[of if filter_name == "none" else f"{of},{filter_name}"] = number
    if gold is not None:
        metrics[GOLD_METRIC], stderrs[GOLD_METRIC] = gold.bits_per_byte, gold.stderr
    cut, failed = set(), set()
    for sample in samples:
        names = [request_name(arguments) for arguments in sample["arguments"]]
        if not lm.cuts.isdisjoint(names):
            cut.add(sample["doc_id"])
            sample["cut"] = True
        if reasons := [lm.failures[each] for each in names if each in lm.failures]:
            failed.add(sample["doc_id"])
            sample["failed"] = reasons[0]
    return TaskRun(
        metrics=metrics,
        stderrs=stderrs,
        items=_items(name, results),
        version=str(results["versions"].get(name, "")),
        samples=samples,
        cut_items=len(cut),
        failed_items=len(failed),
        shots=results["n-shot"].get(name),
        shots_from=_metadata(name, results).get("shots_from", ""),
    )


def _metadata(name: str, results: dict[str, Any]) -> dict[str, Any]:
    config = results["configs"].get(name) or {}
    return config.get("metadata") or {}


def _items(name: str, results: dict[str, Any]) -> int:
    """Items of a task, or of all tasks of a group."""
    if name in results["n-samples"]:
        return int(results["n-samples"][name]["effective"])
    return sum(_items(child, results) for child in results["group_subtasks"].get(name, ()))
