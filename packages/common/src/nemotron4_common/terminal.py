"""The terminal as all packages write to it. Invariant: what is printed is what was given: no markup, no emoji codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that takes `[v2]` and `:cat:` in a path for the text that they are."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False)
