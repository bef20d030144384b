"""How all packages write to the terminal. Invariant: text is printed as given, without markup or emoji codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that prints `[v2]` and `:cat:` in a path literally."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False)
