"""A program's commands, run in a box that a level makes: limits inside, a watch and bounded reading outside.

Invariants: what the program prints fills no more of our memory than its limit and one read; when `run_in_box` returns,
the box has been killed. Source of the order: limits must be set inside, where they count per box.
"""

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from glob import glob
from math import ceil
from pathlib import PurePosixPath
from typing import Protocol

from nemotron4_eval.code.processes import num_open_files, num_threads, resident_bytes
from nemotron4_eval.code.program import Outcome, Program, Status

NOBODY = 65534
MAX_FILES = 10_000
WORK_BYTES = 64 * 2**20
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_TOOLCHAINS = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "ssl/openssl.cnf"),
    *("java*", "R", "mono", "php", "scala", "julia", "lua"),
)
"""What compilers and interpreters read in /etc."""
_TICK = 0.02  # s between two looks at a box
_START_SECONDS = 60.0  # for a box to begin its first command, on a busy machine
END_SECONDS = 5.0  # for a killed box to be gone
_MAX_OPEN_EACH, _MAX_OPEN = 256, 2048  # files, pipes and sockets; a pair of sockets can hold half a megabyte
NOT_COUNTED = (
    f"memory, processes and files: their sums can pass a limit for about {_TICK * 1000:g} ms",
    f"what the kernel keeps in pipes and pairs of sockets: up to {_MAX_OPEN // 4} MB that do not count as memory",
)
_NO_START = 97
_OWN_TASKS = 2  # the box's first process, and one that waits for the others
_MEMORY_WORDS = re.compile(
    rb"MemoryError|OutOfMemoryError|bad_alloc|out of memory|not enough memory|annot allocate|Allowed memory size", re.I
)


class Box(Protocol):
    """What a level makes for one program."""

    process: subprocess.Popen[bytes]
    """It ends when the program does, with its status (128 + n if signal n killed it)."""
    marks: int
    """Where the script's marks arrive."""

    def started(self) -> None:
        """The limits hold, and the first command is about to run."""

    def kill(self) -> None:
        """Kill all that runs in it."""

    def processes(self) -> list[int]:
        """What runs in it."""

    def stored(self) -> tuple[int, int]:
        """Bytes and number of files that it wrote."""

    def close(self) -> None:
        """Remove what is left of it, also if it did not end when it was killed."""


def toolchain_paths() -> list[str]:
    """The files and directories of /etc that a program may read."""
    return [path for name in _TOOLCHAINS for path in sorted(glob(f"/etc/{name}"))]


def is_inside(name: str) -> bool:
    """Whether this path of a program's file stays in its directory."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def as_bytes(text: str) -> bytes:
    """A file's text in UTF-8; a model may write characters that have no UTF-8."""
    return text.encode(errors="replace")


def script(program: Program, tasks: int | None = None) -> str:
    """The shell's program. Standard input is the pipe for marks: a byte before each command, when it has begun."""
    limits = program.limits
    kib = limits.memory_bytes // 1024
    tasks = limits.tasks + _OWN_TASKS if tasks is None else tasks
    lines = [
        f"{{ ulimit -c 0 && ulimit -f {limits.file_bytes // 512} && ulimit -n {_MAX_OPEN_EACH} &&",
        f"ulimit -d {kib} && ulimit -v {4 * kib} &&",
        # dash and busybox say -p, bash and others -u
        f"{{ ulimit -u {tasks} 2>/dev/null || ulimit -p {tasks}; }}; }} || exit {_NO_START}",
    ]
    for command in program.commands:
        if not command[0].startswith("./"):
            name = shlex.quote(command[0])
            lines.append(f"command -v {name} >/dev/null || {{ echo {name}: not found >&2; exit {_NO_START}; }}")
    mark = "echo >&0 || exit"
    *before, last = [shlex.join(command) + " </dev/null" for command in program.commands]
    if before:
        lines.append(_cpu_limit(limits.compile_seconds))
    for command_line in before:
        lines += [mark, f"{command_line} || exit"]
    return "\n".join([*lines, _cpu_limit(limits.cpu_seconds), mark, f"exec {last}", ""])


def _cpu_limit(seconds: float) -> str:
    """A line that lowers the limit of each process; one that ignores SIGXCPU is killed a second later."""
    return f"ulimit -S -t {ceil(seconds)} && ulimit -H -t {ceil(seconds) + 1} || exit {_NO_START}"


def run_in_box(make: Callable[[], Box], program: Program) -> Outcome:
    """Run a program; a failure of ours is tried once more. Never raises for what the program does."""
    outcome = _run(make, program)
    return _run(make, program) if outcome.status is Status.sandbox_failed else outcome


def _run(make: Callable[[], Box], program: Program) -> Outcome:
    begin = time.monotonic()
    try:
        run = _Run(make(), program, begin)
    except (OSError, subprocess.SubprocessError) as error:
        seconds = time.monotonic() - begin
        failed = Status.sandbox_failed
        return Outcome(status=failed, exit_code=None, stdout=b"", stderr=b"", seconds=seconds, reason=str(error))
    try:
        run.follow()
    finally:
        run.box.kill()
        with suppress(subprocess.TimeoutExpired):
            run.box.process.wait(END_SECONDS)
        run.box.close()
    code = run.box.process.returncode
    status, reason = run.judge(code)
    return Outcome(
        status=status,
        exit_code=code if run.status is None and code >= 0 and not _signal_of(code) else None,
        stdout=bytes(run.stdout),
        stderr=bytes(run.stderr),
        seconds=time.monotonic() - begin,
        reason=reason,
    )


class _Run:
    """A box that runs, and what is known of it."""

    def __init__(self, box: Box, program: Program, begin: float) -> None:
        self.box, self.limits = box, program.limits
        self.num_commands = len(program.commands)
        self.commands_begun = 0
        self.stdout, self.stderr = bytearray(), bytearray()
        self.status: Status | None = None  # why we killed it
        self.reason = ""
        self._first_begin = self._last_begin = 0.0  # of the first and the last command
        self._next_look, self._next_count = begin + _TICK, begin
        self._stored = (0, 0)  # bytes, files
        self._give_up = begin + _START_SECONDS

    def follow(self) -> None:
        """Read what the box prints until it has ended, and kill it at a limit."""
        process, poll = self.box.process, select.poll()
        assert process.stdout is not None, "the level opens pipes"
        assert process.stderr is not None, "the level opens pipes"
        output = {process.stdout.fileno(): self.stdout, process.stderr.fileno(): self.stderr}
        open_files = {*output, self.box.marks}
        for file in open_files:
            poll.register(file, select.POLLIN)
        while (open_files or not self._has_ended()) and time.monotonic() < self._give_up:
            for file, _ in poll.poll(_TICK * 1000) if open_files else ():
                data = os.read(file, 2**16)
                if not data:
                    poll.unregister(file)
                    open_files.discard(file)
                elif file == self.box.marks:
                    self._count(len(data))
                else:
                    self._keep(output[file], data)
            if time.monotonic() >= self._next_look:
                self._count_files()
                begin = time.monotonic()
                self._look()
                end = time.monotonic()
                self._next_look = end + max(_TICK, 4 * (end - begin))  # many processes take long

    def _has_ended(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.box.process.wait(_TICK)
        return self.box.process.returncode is not None

    def _stop(self, status: Status, reason: str) -> None:
        if self.status is None:  # the first reason counts
            self.status, self.reason = status, reason
            self._give_up = time.monotonic() + END_SECONDS
            self.box.kill()

    def _count(self, marks: int) -> None:
        now = time.monotonic()
        if not self.commands_begun:
            self.box.started()
            self._first_begin = now
            self._give_up = now + self.limits.compile_seconds + self.limits.seconds + END_SECONDS
        # A program may write marks, too: they bring it nothing, as there are no more commands than these.
        self.commands_begun = min(self.commands_begun + marks, self.num_commands)
        if self.commands_begun == self.num_commands and not self._last_begin:
            self._last_begin = now

    def _keep(self, kept: bytearray, data: bytes) -> None:
        kept += data
        if len(kept) > self.limits.output_bytes:
            del kept[self.limits.output_bytes :]
            self._stop(Status.too_much_output, f"printed more than {self.limits.output_bytes} bytes")

    def _count_files(self) -> None:
        if self.commands_begun and (begin := time.monotonic()) >= self._next_count:
            self._stored = self.box.stored()
            end = time.monotonic()
            self._next_count = end + 4 * (end - begin)  # many files take long: memory must not wait for them

    def _look(self) -> None:
        """Compare what the box uses with its limits."""
        now, limits = time.monotonic(), self.limits
        if not self.commands_begun or self.status:
            return
        if self.commands_begun < self.num_commands:
            if now - self._first_begin > limits.compile_seconds:
                self._stop(Status.timeout, f"compiling took longer than {limits.compile_seconds:g} s")
        elif now - self._last_begin > limits.seconds:
            self._stop(Status.timeout, f"took longer than {limits.seconds:g} s")
        processes = self.box.processes()
        stored, files = self._stored
        if files > MAX_FILES:
            self._stop(Status.killed, f"more than {MAX_FILES} files, or some that cannot be looked at")
        elif stored > WORK_BYTES:
            self._stop(Status.killed, f"stored more than {WORK_BYTES} bytes, or hid it")
        elif resident_bytes(processes, limits.memory_bytes - stored) + stored > limits.memory_bytes:
            self._stop(Status.memory, f"held more than {limits.memory_bytes} bytes")
        elif num_threads(processes) > limits.tasks + _OWN_TASKS:
            self._stop(Status.killed, f"more than {limits.tasks} processes and threads")
        elif num_open_files(processes, _MAX_OPEN_EACH) > _MAX_OPEN:
            self._stop(Status.killed, f"more than {_MAX_OPEN} open files")

    def judge(self, code: int) -> tuple[Status, str]:
        """The status of a box that ended with this code, and a line on it."""
        if not self.commands_begun:
            first_line = self.stderr.decode(errors="replace").strip().partition("\n")[0]
            return Status.sandbox_failed, first_line or self.reason or f"the sandbox ended with {code}"
        if self.status:
            return self.status, self.reason
        if code < 0:  # not the program, of which a box tells by 128 + n
            return Status.sandbox_failed, f"the sandbox itself was killed ({signal.Signals(-code).name})"
        if _signal_of(code) is signal.SIGXCPU:
            compiles = self.commands_begun < self.num_commands
            seconds = self.limits.compile_seconds if compiles else self.limits.cpu_seconds
            return Status.timeout, f"used more than {ceil(seconds)} s of a processor"
        if code and _MEMORY_WORDS.search(self.stderr):
            return Status.memory, f"asked for more than {self.limits.memory_bytes} bytes"
        reason = f"killed ({killer.name})" if (killer := _signal_of(code)) else f"exit status {code}" if code else ""
        if code and self.commands_begun < self.num_commands:
            return Status.compile_error, reason
        return Status.killed if killer else Status.wrong if code else Status.ok, reason


def _signal_of(code: int) -> signal.Signals | None:
    """The signal that a shell tells of by an exit status."""
    return signal.Signals(code - 128) if code - 128 in set(signal.Signals) else None
