"""What is printed is what was given."""

import re
from pathlib import Path

from rich.table import Table

from nemotron4_common.terminal import plain_console

PACKAGES = Path(__file__).parents[2] / "packages"


def test_brackets_and_colons_are_text(capsys):
    console = plain_console()
    console.print("runs/demo[v2]/:cat:/[bold]x")
    table = Table("a[v2]", title="[red]")
    table.add_row("[/]")
    console.print(table)
    shown = capsys.readouterr().out
    for text in ("runs/demo[v2]/:cat:/[bold]x", "a[v2]", "[red]", "[/]"):
        assert text in shown


def test_nothing_prints_in_another_way():
    """No other console, no column of a progress bar that takes text of the user's for markup."""
    for path in PACKAGES.glob("*/src/**/*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "terminal.py":
            assert not re.search(r"\bConsole\(|rich import print|rich\.print", text), path
        for column in re.findall(r"TextColumn\((?:[^()]|\([^()]*\))*\)", text):
            assert "{task" not in column or "markup=False" in column or "{task.fields[rate]}" in column, path
