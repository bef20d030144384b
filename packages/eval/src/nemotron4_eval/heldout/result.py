"""The result of held-out text as a part of eval.json and as a table.

Invariant: the file appears complete or not at all.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.table import Table

from nemotron4_common.rules import require
from nemotron4_common.staging import write_file
from nemotron4_eval.heldout.text import domain_of

_FIRST_KEY = b'"bits_per_byte"'


class BitsResult(TypedDict):
    """What was measured on held-out text: the first keys of eval.json."""

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
    corpus: str
    corpus_digest: str


def check_output(path: Path) -> None:
    """ValueError if writing would replace a file that is not a result."""
    if not path.exists():
        return
    with path.open("rb") as file:
        rule = "exists and is not a result of eval; give another directory as out, or move it away"
        require(_FIRST_KEY in file.read(100), "out", path, rule)


def replaced_result(result: Mapping[str, Any], path: Path) -> str | None:
    """What the result at `path` measured, if it is of another checkpoint, suite or amount of text; None otherwise."""
    if not path.exists():
        return None
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return "a model, which cannot be read any more,"
    if all(old.get(key) == result.get(key) for key in ("checkpoint", "suite", "bytes")):
        return None
    return f"{old.get('checkpoint') or old.get('model')} (suite {old.get('suite')}, {old.get('bytes')} bytes)"


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write the result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())


def print_bits(result: Mapping[str, Any], console: Console) -> None:
    """The table of bits per byte."""
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
