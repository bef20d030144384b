"""Optional dependencies: the modules that an extra of a nemotron4 package installs.

Invariant: a missing module is reported before any work is done, in one line, with the command that installs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def check_installed(need: str, modules: Sequence[str], extra: str) -> None:
    """Raise ValueError unless the modules are installed. `need` begins the message: `key (value): needs X`."""
    if any(find_spec(module) is None for module in modules):
        raise ValueError(f"{need}; pip install '{extra}'")
