"""Harness tasks run on a model, offline.

Invariant: only the given task files are read: the harness's own task index is not loaded, and nothing is downloaded.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager, get_task_dict

from nemotron4_eval.harness.model import EngineLM
from nemotron4_infer import LoadedModel
from nemotron4_infer.likelihood import Progress


def check_tasks(task_paths: Sequence[str]) -> None:
    """Raise ValueError, naming the file, for a task that the harness cannot load together with its data."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_defaults=False)
    for path in task_paths:
        try:
            get_task_dict([path], manager)
        except Exception as error:  # from YAML, the harness, or the library that reads the data
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"suite.tasks ({path}): the harness cannot load it ({reason}); correct that file"
            ) from error


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """What the harness gave for one task."""

    metrics: dict[str, float | None]
    """By metric, with its filter unless that is none: acc, `exact_match,strict`."""
    stderrs: dict[str, float | None]
    """Standard errors of the same names."""
    items: int
    version: str
    samples: list[dict[str, Any]]
    """Per-item records of the harness, each with the exact prompt; not printed, but written beside the result."""
    cut_items: int = 0
    failed_items: int = 0


def run_tasks(
    lm: EngineLM, tasks: Sequence[dict[str, Any]], *, limit: int | None = None, seed: int = 1234
) -> dict[str, TaskRun]:
    """Run tasks given as configurations of the harness (`load_yaml`'s dictionaries); results by task name.

    All their requests are looked at together. `seed` draws few-shot examples.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = simple_evaluate(
        model=lm,
        tasks=[dict(each) for each in tasks],
        limit=limit,
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=1_000,
        fewshot_random_seed=seed,
    )
    assert found is not None
    runs = {}
    for each in tasks:
        name = each["task"]
        values = _metrics(found["results"][name])
        runs[name] = TaskRun(
            metrics={key: value for key, value in values.items() if "_stderr" not in key},
            stderrs={key.replace("_stderr", ""): value for key, value in values.items() if "_stderr" in key},
            items=found["n-samples"][name]["effective"],
            version=str(found["versions"].get(name, "")),
            samples=found["samples"][name],
        )
    return runs


def run_harness(
    loaded: LoadedModel, task_paths: Sequence[str], *, limit: int | None = None, progress: Progress | None = None
) -> dict[str, dict[str, float | None]]:
    """Run harness tasks given as YAML paths; returns metrics, stderrs and `num_items` of each task.

    Only these files are read: the harness's own task index is not loaded, and nothing is downloaded.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = simple_evaluate(
        model=EngineLM(loaded, progress),
        tasks=list(task_paths),
        limit=limit,
        task_manager=TaskManager(include_defaults=False),
        log_samples=False,
        bootstrap_iters=1_000,
    )
    assert results is not None
    return {
        task: {**_metrics(values), "num_items": results["n-samples"][task]["effective"]}
        for task, values in results["results"].items()
        if task in results["n-samples"]
    }


def _metrics(values: dict[str, Any]) -> dict[str, float | None]:
    """Rename lm-eval's `acc,none` to acc, `acc_stderr,none` to acc_stderr; a filter other than none is kept in it."""
    metrics: dict[str, float | None] = {}
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma:
            continue
        name = metric if filter_name == "none" else f"{metric},{filter_name}"
        metrics[name] = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    return metrics
