"""What is installed on demand: the modules that an extra of one of our packages brings.

Invariant: an absence is told before any work is done, in one line, with the command that brings what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def check_installed(need: str, modules: Sequence[str], extra: str) -> None:
    """Raise ValueError unless the modules are installed. `need` says what needs which: `key (value): needs X`."""
    if any(find_spec(module) is None for module in modules):
        raise ValueError(f"{need}; pip install '{extra}'")
