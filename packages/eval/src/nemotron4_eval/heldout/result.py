"""The result of an evaluation as a file and as a table.

Invariant: the file appears complete or not at all.
"""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rich.console import Console
from rich.table import Table

from nemotron4_common.rules import require
from nemotron4_common.staging import is_stream, write_file
from nemotron4_eval.heldout.text import domain_of

_FIRST_KEY = b'"bits_per_byte"'


class EvalResult(TypedDict):
    """eval.json."""

    bits_per_byte: dict[str, Any]
    """`overall`, then each domain, then `sources`: bits per byte by source."""
    gzip_bits_per_byte: dict[str, Any]
    """The same for `gzip -9`."""
    xz_bits_per_byte: dict[str, Any]
    """The same for `xz -9e`."""
    tokens: int
    """Scored tokens."""
    bytes: int
    """UTF-8 bytes of the held-out text."""
    parameters: int
    tasks: dict[str, dict[str, float | None]]
    """For each task its metrics, their `_stderr`, `num_items`, and `chance` if it is known."""
    model: str
    corpus: str
    corpus_digest: str
    suite: str
    run_id: NotRequired[str]
    """The model's run; copied from provenance.json, like `job_digest` and `checkpoint`."""
    job_digest: NotRequired[str]
    checkpoint: NotRequired[str]
    seconds: NotRequired[float]


def check_output(path: Path) -> None:
    """ValueError if writing would replace a file that is not a result; a device or pipe may be written to."""
    if is_stream(path) or not path.exists():
        return
    with path.open("rb") as file:
        rule = "exists and is not a result of eval; give another path, or move it away"
        require(_FIRST_KEY in file.read(100), "output", path, rule)


def replaced_result(result: EvalResult, path: Path) -> str | None:
    """What the result at `path` measured, if it is of another checkpoint, suite or amount of text; None otherwise."""
    if is_stream(path) or not path.exists():
        return None
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return "a model, which cannot be read any more,"
    if all(old.get(key) == result.get(key) for key in ("checkpoint", "suite", "bytes")):
        return None
    return f"{old.get('checkpoint') or old.get('model')} (suite {old.get('suite')}, {old.get('bytes')} bytes)"


def write_result(result: EvalResult, path: Path) -> None:
    """Write the result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())


def print_result(result: EvalResult, console: Console) -> None:
    """Tables of bits per byte and of tasks."""
    title = f"{result['model']}: {result['parameters']:,} parameters, {result['bytes']:,} held-out bytes"
    table = Table(title=title, title_justify="left")
    table.add_column("bits per byte (lower is better)")
    for name in ("model", "gzip -9", "xz -9e"):
        table.add_column(name, justify="right")
    columns = [result["bits_per_byte"], result["gzip_bits_per_byte"], result["xz_bits_per_byte"]]
    domains = [key for key in columns[0] if key != "sources"]
    for domain in domains:
        # The overall row comes first; what follows are its parts.
        table.add_row(domain, *(f"{column[domain]:.3f}" for column in columns), style="bold")
        for source in (s for s in columns[0]["sources"] if domain_of(s) == domain and s != domain):
            table.add_row(f"  {source}", *(f"{column['sources'][source]:.3f}" for column in columns))
    console.print(table)
    if result["tasks"]:
        console.print(_task_table(result["tasks"]))


def _task_table(tasks: dict[str, dict[str, float | None]]) -> Table:
    table = Table()
    for name in ("task", "metric", "value", "stderr", "chance", "items"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for task, values in tasks.items():
        for metric, value in values.items():
            if metric in ("chance", "num_items") or "_stderr" in metric:
                continue
            name, comma, filter_name = metric.partition(",")
            stderr = values.get(f"{name}_stderr{comma}{filter_name}")
            chance = values.get("chance")
            table.add_row(task, metric, _figure(value), _figure(stderr), _figure(chance), str(values["num_items"]))
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
