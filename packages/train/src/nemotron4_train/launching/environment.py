"""What passes between a launcher and its workers in environment variables."""

from __future__ import annotations

from collections.abc import Mapping

LAUNCHER_PID = "NEMOTRON4_LAUNCHER_PID"
"""The environment variable in which our own launcher passes its process id to its workers."""


def shown(variables: Mapping[str, str]) -> str:
    """Environment variables, as an error shows them."""
    return ", ".join(f"{name} ({value})" for name, value in variables.items())
