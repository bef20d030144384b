"""The job that a command line makes, through all of the command line but the work itself."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from nemotron4_config.command import command_loaders
from nemotron4_config.interruption import Interruption
from nemotron4_config.main import run_reporting_errors

_JOBS: list[Any] = []


def keep(job: Any) -> None:
    """What stands in for a verb's function."""
    _JOBS.append(job)


def composed(verb: str, *arguments: str) -> Any:
    """The job; asserts that the command line takes the arguments."""
    assert status_of(verb, *arguments) == 0
    return _JOBS[-1]


@cache
def planned(experiment: str) -> Any:
    """The job that `plan` makes of a shipped experiment: one for all tests, which must not change it."""
    return composed("plan", f"experiment={experiment}")


def status_of(verb: str, *arguments: str) -> int:
    """The exit status of the command line; what it says goes to stdout and stderr."""
    command = replace(command_loaders()[verb](), run="composed:keep")
    return run_reporting_errors(verb, command, list(arguments), Interruption())
