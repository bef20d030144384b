"""A benchmark as data: its tasks, and the cells of the paper's tables that they fill.

Each folder of `tasks/` has a `benchmark.yaml`, which this module reads. An entry with `for: {COLUMN: WORD}` stands for
one entry a word: `{}` in its texts becomes the word, and a cell's column is COLUMN. So a language is a word of a list.
`for: [WORD, ...]` does so without columns, and so do lists of words in it; the tasks of a cell may be such an entry.
Source: arXiv 2402.16819, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

TASKS_DIR = Path(__file__).parent.parent / "tasks"
HARNESS_PREFIX = "lm_eval:"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task of the LM Evaluation Harness, and what it takes to run it."""

    name: str
    """Its name there and in eval.json; unique over all benchmarks."""
    yaml: str
    """Its YAML: `lm_eval:PATH`, a file of the harness's own tasks, or a file of the benchmark's folder."""
    dataset: str
    """What `data.locate.load` calls its items, e.g. xcopa/et."""
    shots: int
    """Examples in the prompt; what the harness is told, unless the YAML has them in its text."""
    toolchain: str | None = None
    """A language of `code.languages` whose programs are run; null for none."""
    needs_flores_tokenizer: bool = False
    """Whether its headline metric needs the FLORES SentencePiece model."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A printed number of a table: one metric of one task, or its average over several."""

    table: int
    """3 to 11."""
    column: str
    """The column's printed head, e.g. ARC-c. AVG: in place of the mean of the row's cells."""
    tasks: tuple[str, ...]
    """Names of tasks."""
    metric: str
    """A metric as the harness names it, with its filter unless that is none: acc_norm, or exact_match,strict."""
    mode: str = ""
    """Which row of the table, where it has several for a model: 0-shot, 4-shot. Empty: it stands in every row."""
    average: Literal["mean", "items"] = "mean"
    """Over several tasks: their plain mean, or the mean over all items."""
    in_average: bool = True
    """Whether the cell counts in the row's AVG."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A folder of tasks and the cells that they fill."""

    name: str
    """The folder's name."""
    title: str
    """For people."""
    area: str
    """Of the paper's seven: reasoning, mmlu, bbh, math, code, multilingual classification, multilingual generation."""
    tasks: tuple[TaskSpec, ...]
    cells: tuple[Cell, ...]
    shared_items: bool = False
    """Whether item i of all tasks is one question in several languages: standard errors are then clustered by it,
    and that of a mean over scores of whole corpora, such as BLEU, is the most that it can be."""


def benchmark_names(directory: Path = TASKS_DIR) -> list[str]:
    """Names of all benchmarks, sorted."""
    return sorted(path.parent.name for path in directory.glob("*/benchmark.yaml"))


def load_benchmark(name: str, directory: Path = TASKS_DIR) -> Benchmark:
    """The benchmark of a folder of `tasks/`."""
    content = yaml.safe_load((directory / name / "benchmark.yaml").read_text(encoding="utf-8"))
    tasks = [TaskSpec(**each) for entry in content.pop("tasks") for _, each in _expanded(entry)]
    cells = []
    for entry in content.pop("cells"):
        for column, each in _expanded(entry):
            each = {"column": column} | each
            cells.append(Cell(**each | {"tasks": tuple(_task_names(each["tasks"]))}))
    return Benchmark(name=name, tasks=tuple(tasks), cells=tuple(cells), **content)


def _task_names(tasks: list[str] | dict[str, Any]) -> list[str]:
    return tasks if isinstance(tasks, list) else [each["name"] for _, each in _expanded(tasks)]


def _expanded(entry: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if "for" not in entry:
        return [("", dict(entry))]
    words: dict[str, str] | list[Any] = entry["for"]
    pairs = words.items() if isinstance(words, dict) else [(word, word) for word in _flat(words)]
    rest = {key: value for key, value in entry.items() if key != "for"}
    return [(column, _filled(rest, str(word))) for column, word in pairs]


def _flat(words: list[Any]) -> list[str]:
    return [word for each in words for word in (_flat(each) if isinstance(each, list) else [each])]


def _filled(value: Any, word: str) -> Any:
    if isinstance(value, str):
        return value.replace("{}", word)
    if isinstance(value, list):
        return [_filled(each, word) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, word) for key, each in value.items()}
    return value
