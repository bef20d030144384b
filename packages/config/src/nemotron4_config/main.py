"""The `nemotron4` program: `nemotron4 VERB [overrides]`.

Exit status: 0 done; 2 the user's input is wrong (one line on stderr); 1 a bug in this program, or a failed job in a
sweep; 75 stopped for requeue after saving a checkpoint; 128 + the number of the signal that ended it (130 for Ctrl-C).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from nemotron4_config.command import Command, command_loaders
from nemotron4_config.interruption import Interruption, reporting_signals

USAGE = """\
usage: nemotron4 VERB [key=value ...] [group=option ...] [-m] [--cfg job] [--help]

Pretrain, continue, evaluate and serve Nemotron-4 models, all through overrides.

verbs:
{verbs}

nemotron4 VERB --help lists a verb's config groups and keys, VERB --help GROUP describes one group; --cfg job prints the
composed job; -m sweeps.
"""


def usage(loaders: dict[str, object]) -> str:
    """The text of `nemotron4 --help`."""
    commands = {verb: loader() for verb, loader in command_loaders().items() if verb in loaders}
    return USAGE.format(
        verbs="\n".join(f"  {spoken(verb):<12} {command.summary}" for verb, command in commands.items())
    )


def spoken(verb: str) -> str:
    """A verb as it is typed."""
    return verb.replace("_", " ")


def main(arguments: Sequence[str] | None = None, run: str | None = None) -> int:
    """Run one verb; returns the exit status. `run` ("module:attribute") replaces the function that runs its job."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = takewhile(lambda word: word.replace("_", "").isalpha(), words)
    return reporting_signals(" ".join(["nemotron4", *verb]), lambda interruption: run_verb(words, interruption, run))


def run_verb(arguments: list[str], interruption: Interruption, run: str | None) -> int:
    """Run the command that was typed, or pass its job to `run`; returns the exit status."""
    loaders = command_loaders()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(dict(loaders)))
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"nemotron4 {version('nemotron4-config')}")
        return 0
    words = 2 if "_".join(arguments[:2]) in loaders else 1
    verb, overrides = "_".join(arguments[:words]), arguments[words:]
    if verb not in loaders:
        known = ", ".join(map(spoken, loaders)) or "none: install a package such as nemotron4-train"
        print(f"nemotron4: {verb!r} is not a verb; choose one of: {known}", file=sys.stderr)
        return 2
    command = loaders[verb]()
    return run_reporting_errors(verb, command if run is None else replace(command, run=run), overrides, interruption)


def run_reporting_errors(verb: str, command: Command, overrides: list[str], interruption: Interruption) -> int:
    """Run one verb with its overrides; returns the exit status. A user's mistake is reported in one line."""
    from nemotron4_config.application import run_application
    from nemotron4_config.errors import USER_ERRORS, explain

    want_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        return run_application(verb, command, overrides, interruption.check)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to report
        return 0
    except USER_ERRORS as error:
        if want_traceback or interruption.ended_it(error):
            raise
        print(f"nemotron4 {spoken(verb)}: {explain(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
