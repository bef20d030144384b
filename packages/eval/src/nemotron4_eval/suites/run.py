"""The tasks of a suite run on a model, a benchmark at a time, so that what was finished is kept.

Invariants: a finished task is a record under its final name, and is read, not run again, by the same evaluation of the
same model; a task whose fault stops it is missing with its reason, and the others go on.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from nemotron4_common.staging import value_sha256, write_file
from nemotron4_eval.harness.model import EngineLM
from nemotron4_eval.harness.run import TaskRun, run_tasks
from nemotron4_eval.suites.needs import FAULT, Needs, ReadyTask
from nemotron4_eval.suites.results import TaskResult

SAMPLES_DIR, FINISHED_DIR = "samples", "finished"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Records:
    """The finished tasks of an evaluation, in its directory; with None, nothing is kept."""

    directory: Path | None
    identity: Mapping[str, Any]
    """What a task's result depends on beside the task: the model, limit, seeds, versions."""

    def read(self, ready: ReadyTask) -> TaskRun | None:
        """What a task came to in an evaluation that was stopped; None if it did not end, or was another."""
        if self.directory is None:
            return None
        record, samples = self._paths(ready)
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content.pop("digest") != self._digest(ready):
                return None
            items = [json.loads(line) for line in samples.read_text(encoding="utf-8").split("\n") if line]
            return TaskRun(**content, samples=items)
        except (OSError, ValueError, KeyError, TypeError):  # absent, or cut by a full disk: then it is run again
            return None

    def write(self, ready: ReadyTask, run: TaskRun) -> None:
        """Keep what a task came to: its items, then the record, which makes them count."""
        if self.directory is None:
            return
        record, samples = self._paths(ready)
        for path in (record, samples):
            path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(each, ensure_ascii=False, default=str) + "\n" for each in run.samples]
        write_file(samples, "".join(lines).encode("utf-8", "surrogatepass"))
        content = {key: value for key, value in asdict(run).items() if key != "samples"}
        write_file(record, json.dumps(content | {"digest": self._digest(ready)}).encode())

    def _paths(self, ready: ReadyTask) -> tuple[Path, Path]:
        assert self.directory is not None
        name = ready.task.spec.name
        return self.directory / FINISHED_DIR / f"{name}.json", self.directory / SAMPLES_DIR / f"{name}.jsonl"

    def _digest(self, ready: ReadyTask) -> str:
        return value_sha256([self.identity, ready.task.digest(), ready.dataset_digest])


def run_ready(
    ready: Sequence[ReadyTask],
    lm: EngineLM,
    needs: Needs,
    records: Records,
    *,
    limit: int | None,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, TaskRun]:
    """Run tasks; results by name. A task that a fault stops is added to `needs.missing`."""
    runs: dict[str, TaskRun] = {}
    for title, group in groupby(ready, key=_title):
        todo = []
        for each in group:
            if (run := records.read(each)) is not None:
                runs[each.task.spec.name] = run
            else:
                todo.append(each)
        if not todo:
            say(f"{title}: finished before")
            continue
        say(f"{title}: {len(todo)} task{'s' * (len(todo) > 1)}")
        for each, run in _run_group(todo, lm, needs, limit, seed):
            records.write(each, run)
            runs[each.task.spec.name] = run
            say(f"  {each.task.spec.name}: {_in_words(each, run)}")
    return runs


def _title(ready: ReadyTask) -> str:
    return ready.task.benchmark.title if ready.task.benchmark else ready.task.spec.name


def _run_group(
    group: Sequence[ReadyTask], lm: EngineLM, needs: Needs, limit: int | None, seed: int
) -> Iterator[tuple[ReadyTask, TaskRun]]:
    """All of a group at once, or, if a fault stops that, one by one: what was computed is in the adapter's cache."""
    try:
        runs = run_tasks(lm, [each.config for each in group], limit=limit, seed=seed)
    except Exception as error:
        _raise_if_ours(error)
        if len(group) > 1:
            for each in group:
                yield from _run_group([each], lm, needs, limit, seed)
            return
        _log.debug("fault in %s", group[0].task.spec.name, exc_info=error)
        reason = " ".join(str(error).split()) or type(error).__name__
        needs.add(group[0].task, FAULT, f"stopped by {type(error).__name__}: {reason}")
        return
    for each in group:
        yield each, runs[each.task.spec.name]


def _raise_if_ours(error: Exception) -> None:
    """Let pass what no single task is to blame for: the disk, and the file of cached results."""
    if isinstance(error, sqlite3.Error) or (isinstance(error, OSError) and error.errno is not None):
        raise error


def headline(ready: ReadyTask, run: TaskRun) -> str:
    """The metric to show for a task: that of its cell, else the first that the harness gave."""
    return ready.task.metric or next(iter(run.metrics), "")


def _in_words(ready: ReadyTask, run: TaskRun) -> str:
    metric = headline(ready, run)
    value, stderr = run.metrics.get(metric), run.stderrs.get(metric)
    figure = "no value" if value is None else f"{value:.4g}" + (f" ± {stderr:.2g}" if stderr is not None else "")
    cut = f", {run.cut_items} cut on the left" * (run.cut_items > 0)
    failed = f", {run.failed_items} failed" * (run.failed_items > 0)
    return f"{metric} {figure} ({run.items} items{cut}{failed})"


def task_result(ready: ReadyTask, run: TaskRun, *, has_samples: bool) -> TaskResult:
    """A task's part of eval.json."""
    name, metric = ready.task.spec.name, headline(ready, run)
    return {
        "metric": metric,
        "value": run.metrics.get(metric),
        "stderr": run.stderrs.get(metric),
        "items": run.items,
        "shots": ready.shots,
        "shots_from": run.shots_from if ready.shots else "",
        "metrics": run.metrics,
        "stderrs": {name: stderr for name, stderr in run.stderrs.items() if stderr is not None},
        "version": run.version,
        "dataset": ready.task.spec.dataset,
        "dataset_digest": ready.dataset_digest,
        "cut_items": run.cut_items,
        "failed_items": run.failed_items,
        "samples": f"{SAMPLES_DIR}/{name}.jsonl" if has_samples else "",
    }
