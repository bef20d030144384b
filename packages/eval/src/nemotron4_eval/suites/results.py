"""What an evaluation came to: the parts of eval.json.

Shares are fractions of one here and percents in the report. What could not be computed is None, never left out.
"""

from typing import Any, NotRequired, TypedDict


class TaskResult(TypedDict):
    """One task."""

    metric: str
    """The headline metric, as `Cell.metric`."""
    value: float | None
    stderr: float | None
    items: int
    """Items scored."""
    shots: int
    shots_from: str
    """The split that examples were drawn from, where it depends on the data found, as for TyDiQA and FLORES; if that is
    the scored one, no item was an example of its own. Empty otherwise."""
    metrics: dict[str, float | None]
    """Every metric that the harness gave, and `gold_bits_per_byte`."""
    stderrs: dict[str, float]
    """Of those metrics that have one."""
    version: str
    """Of the task's YAML."""
    dataset: str
    dataset_digest: str
    """SHA-256 over the items read, in order."""
    cut_items: int
    """Items whose prompt lost its beginning, since it is longer than the model's context."""
    failed_items: int
    """Items whose request failed, scored as wrong."""
    samples: str
    """File of per-item records, relative to eval.json; empty if none were kept."""
    chance: NotRequired[float]
    """What guessing gives."""


class CellResult(TypedDict):
    """One number of the model's row."""

    value: float | None
    stderr: float | None
    items: int
    missing: NotRequired[str]
    """Why there is no value."""


class Row(TypedDict):
    """The model's row of a table, one for each mode."""

    mode: str
    cells: dict[str, CellResult]
    """By column."""
    average: CellResult
    """AVG; without a value unless every cell has one."""
    coverage: str
    """5 of 11 columns."""


class Missing(TypedDict):
    """What a task needs and did not find."""

    task: str
    tables: list[int]
    kind: str
    """data, context, toolchain, tokenizer, sandbox; fault, if the task stopped while it ran."""
    message: str
    """One line: what is missing."""
    command: str
    """What brings it; empty if nothing on this machine can."""
    tokens: NotRequired[int]
    """Of kind context: what a typical item and its answer take."""


class Evaluation(TypedDict):
    """eval.json of a suite of benchmarks; evaluation.py adds model, suite, run_id, trained_tokens and so on."""

    tasks: dict[str, TaskResult]
    tables: dict[str, list[Row]]
    """By the table's number, as text."""
    missing: list[Missing]
    settings: dict[str, Any]
    """document_start, seeds, limit, samples, the sandbox and what it cannot hold, versions, digests, contamination."""
