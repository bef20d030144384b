"""What `nemotron4 prepare` shows in the terminal: a bar for each pass, and the sizes of the corpus at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from .manifest import Manifest
from .prepare_report import cause_line


@contextmanager
def stage_progress(console: Console, name: str, total_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    """A bar that moves by `advance(documents, bytes)` and shows documents/s, MB/s and the time left."""
    columns = (TextColumn(name), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    is_shown = console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task(name, total=total_bytes, rate="")
        num_documents = 0

        def advance(documents: int, num_bytes: int) -> None:
            nonlocal num_documents
            num_documents += documents
            progress.advance(task, num_bytes)
            if seconds := progress.tasks[task].elapsed:
                done = progress.tasks[task].completed
                rate = f"{num_documents / seconds:,.0f} documents/s  {done / seconds / 1e6:,.1f} MB/s"
                progress.update(task, rate=rate)

        yield advance


def print_summary(manifest: Manifest, directory: Path, console: Console) -> None:
    """The sizes of each source, and whether documents can be restored from their tokens."""
    table = Table("source", title=f"{manifest.name} in {directory}", title_justify="left")
    for column in ("documents", "MB", "tokens", "bytes/token"):
        table.add_column(column, justify="right")
    facts = manifest.stages["tokens"].facts
    totals, not_exact, control_text = [0, 0, 0], 0, 0
    for source, splits in facts["sources"].items():
        sizes = [sum(count[field] for count in splits.values()) for field in ("documents", "bytes", "tokens")]
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
        not_exact += sum(count["not_exact"] for count in splits.values())
        control_text += sum(count["control_text"] for count in splits.values())
        table.add_row(source, *_cells(sizes))
    table.add_section()
    table.add_row("all", *_cells(totals))
    console.print(table)
    if not not_exact:
        console.print(f"all {totals[0]:,} documents can be restored exactly from their tokens")
    else:
        causes = "; ".join(cause_line(cause, found) for cause, found in facts["not_exact"].items())
        message = (
            f"warning: {not_exact:,} of {totals[0]:,} documents cannot be restored exactly from their tokens: "
            f"{causes}: train a tokenizer on this corpus (tokenizer.model=null) or give another"
        )
        console.print(message, style="bold red", soft_wrap=True)
    if control_text:
        console.print(
            f"{control_text:,} documents contain the text of control pieces such as </s>: it is encoded as text"
        )


def _cells(sizes: list[int]) -> list[str]:
    num_documents, num_bytes, num_tokens = sizes
    return [f"{num_documents:,}", f"{num_bytes / 1e6:.2f}", f"{num_tokens:,}", f"{num_bytes / num_tokens:.2f}"]
