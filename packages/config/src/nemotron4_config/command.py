"""What a package registers with the command line: one `Command` per verb, found through entry points.

An underscore in a verb is typed as a space: `nemotron4 data verify` is the entry point data_verify and
conf/data_verify.yaml. A command names its job type and its function as strings ("package.module:attribute"), so that
listing the verbs imports neither Hydra nor torch: `nemotron4 --help` takes less than a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ENTRY_POINT_GROUP = "nemotron4.commands"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb: the dataclass composed from conf/<verb>.yaml, and what runs it."""

    job: str
    """"module:attribute" of the job's dataclass."""
    run: str
    """"module:attribute" of a function job -> float | None; the float is a sweep's objective."""
    summary: str
    """One line for `nemotron4 --help`."""
    summarise_sweep: str | None = None
    """"module:attribute" of a function (sweep directory, rows, done), called during a sweep and at its end."""
    run_jobs: str | None = None
    """"module:attribute" of a function (jobs, report) -> bool that may run a sweep's jobs other than as processes.

    It receives the jobs that are not complete, as (directory, job), and calls report(index, objective, error) as each
    ends; or it returns False at once, to have them run as processes.
    """
    resolvers: Mapping[str, str] = field(default_factory=dict)
    """By the name X of `${X:KEY}` in conf/: "module:attribute" of a function (composed job, KEY) -> value."""
    implied_choices: Mapping[str, str] = field(default_factory=dict)
    """By key: the GROUP=OPTION that an override of the key chooses, unless GROUP is chosen on the command line too."""

    def with_implied(self, overrides: Sequence[str]) -> list[str]:
        """The overrides of a command line, and those that they imply."""
        values = {text.lstrip("+~").partition("=")[0]: text.partition("=")[2] for text in overrides}
        implied = [
            choice
            for key, choice in self.implied_choices.items()
            if values.get(key, "null") != "null" and choice.partition("=")[0] not in values
        ]
        return [*overrides, *implied]


def load_attribute(reference: str) -> Any:
    """The object behind "module:attribute"."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def command_loaders() -> dict[str, Callable[[], Command]]:
    """Verb -> loader of its command, of every installed package, sorted by verb."""
    from importlib.metadata import entry_points  # slow, so imported only once signals are handled

    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point.load for point in found}
