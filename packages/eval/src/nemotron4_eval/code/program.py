"""A program of which nothing is trusted, what it may use, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Level(Enum):
    """How a program is held, the strongest first."""

    namespaces = "namespaces"
    landlock = "landlock"
    limits = "limits"


class Status(Enum):
    """What became of a program."""

    ok = "ok"
    wrong = "wrong"
    """It exited with another status than 0, or without the marker that its tests print last."""
    compile_error = "compile error"
    timeout = "timeout"
    memory = "memory"
    too_much_output = "too much output"
    killed = "killed"
    sandbox_failed = "sandbox failed"
    """Ours, not the program's: tried again, then reported, never counted as wrong."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use."""

    seconds: float = 15
    """Wall clock of the last command."""
    compile_seconds: float = 45
    """Wall clock of the commands before it, together."""
    cpu_seconds: int = 10
    memory_bytes: int = 2**30
    tasks: int = 64
    """Processes and threads."""
    file_bytes: int = 32 * 2**20
    output_bytes: int = 64 * 2**10


@dataclass(frozen=True, kw_only=True)
class Program:
    """Files, and commands run in their directory one after the other, as long as they exit with 0."""

    files: Mapping[str, str]
    commands: Sequence[Sequence[str]]
    """All but the last compile."""
    environment: Mapping[str, str] = field(default_factory=dict)
    read_only: Sequence[str] = ()
    """Further paths of this machine that it may read: jars, precompiled headers."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended."""

    status: Status
    """Never `wrong` for want of a marker: verdict.py looks at that."""
    exit_code: int | None
    """Of the last command that ran; None if it was killed."""
    stdout: bytes
    stderr: bytes
    seconds: float
    reason: str = ""
    """One line, e.g. killed (SIGSEGV)."""


class Sandbox:
    """Runs programs at one level; safe to call from several threads."""

    level: Level
    cannot_hold: Sequence[str] = ()
    """What the level lets through, one line each."""

    def run(self, program: Program) -> Outcome:
        """Run a program; never raises for what the program does."""
        raise AssertionError("abstract")
