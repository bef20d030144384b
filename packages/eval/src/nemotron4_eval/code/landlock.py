"""The levels without namespaces: Landlock and a filter of system calls, or nothing but limits.

Invariants: a program has a directory of its own, which is removed with all that is in it; its processes are killed
with their launcher. What it could do to our other processes and files is bounded as `cannot_hold` says.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nemotron4_eval.code.box import (
    DEVICES,
    ENVIRONMENT,
    MAX_FILES,
    NOBODY,
    NOT_COUNTED,
    Box,
    as_bytes,
    is_inside,
    run_in_box,
    script,
    toolchain_paths,
)
from nemotron4_eval.code.processes import descendants, num_threads
from nemotron4_eval.code.program import Level, Outcome, Program, Sandbox
from nemotron4_eval.code.seccomp import filter_program

# Of /proc, where mono and Rscript look for themselves, Landlock keeps others' memory and environment.
_READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc")
_BLOCK = 512  # bytes, of st_blocks
_SPARE_TASKS = 2048  # the limit on a user's processes is shared with other programs; the watch holds ours


class LauncherSandbox(Sandbox):
    """Runs programs through the launcher. `abi`: Landlock's version, 0 for the level of limits."""

    def __init__(self, abi: int, *, drop: bool) -> None:
        self._abi, self._drop = abi, drop
        self.level = Level.landlock if abi else Level.limits
        self._filter = filter_program(sockets=False, signals=abi >= 6) if abi else None
        self.cannot_hold = tuple(self._weaknesses())

    def _weaknesses(self) -> Iterator[str]:
        owner = f"of user {NOBODY}" if self._drop else "of yours"
        if not self._abi:
            yield from (f"files {owner} or open to all: it can read and change them", "the network: it can connect")
            yield f"processes {owner}: it can read and end them"
            return
        yield "the names and commands of all processes: it can read them"
        yield f"files {owner}: it can change their permissions and times"
        if self._abi < 3:
            yield f"files {owner}: it can empty them (held from version 3 of Landlock on; this is {self._abi})"
        if self._abi < 6:
            yield f"processes {owner}: it can end them by tgkill (held from version 6 on; this is {self._abi})"
        if not self._filter:
            yield "sockets and rare system calls: this processor's numbers are not known"
        yield from NOT_COUNTED

    def run(self, program: Program) -> Outcome:
        """Run a program; never raises for what the program does."""
        return run_in_box(lambda: _DirectoryBox(self, program), program)

    def start(self, program: Program, root: Path, marks: int) -> subprocess.Popen[bytes]:
        """Start the launcher; the program's standard input is `marks`, its directory is in `root`."""
        work = str(root / "work")
        user = NOBODY if self._drop else os.getuid()
        job = {
            "landlock": self._abi,
            "filter": self._filter.hex() if self._filter else None,
            "uid": NOBODY if self._drop else None,
            "directory": work,
            "readable": [*_READABLE, *toolchain_paths(), *program.read_only],
            "writable": [str(root), *DEVICES],
            "script": script(program, tasks=_num_tasks(user) + _SPARE_TASKS),
            "environment": {**ENVIRONMENT, "HOME": work, "TMPDIR": str(root / "tmp"), **program.environment},
        }
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), json.dumps(job)],
            stdin=marks,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )

    def fill(self, root: Path, program: Program) -> None:
        """Write the program's files, in directories that it may write."""
        for name in ("work", "tmp"):
            (root / name).mkdir()
        for name, content in program.files.items():
            assert is_inside(name), f"{name} is not inside the program's directory"
            path = root / "work" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_bytes(content))
        if self._drop:
            for path in (root, *root.rglob("*")):
                os.chown(path, NOBODY, NOBODY)


class _DirectoryBox(Box):
    def __init__(self, sandbox: LauncherSandbox, program: Program) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="nemotron4-sandbox-"))
        self.marks, theirs = os.pipe()
        try:
            sandbox.fill(self._root, program)
            self.process = sandbox.start(program, self._root, theirs)
        except BaseException:
            os.close(self.marks)
            _remove(self._root)
            raise
        finally:
            os.close(theirs)

    def started(self) -> None:
        pass

    def kill(self) -> None:
        self.process.terminate()  # the launcher kills all below it, then ends

    def processes(self) -> list[int]:
        return descendants(self.process.pid)

    def stored(self) -> tuple[int, int]:
        size = number = 0
        directories = [str(self._root)]
        for directory in directories:  # grows while it is read
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    number += 1
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    size += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
            if number > MAX_FILES:
                break
        return size, number

    def close(self) -> None:
        for process in descendants(self.process.pid) if self.process.poll() is None else ():
            with suppress(ProcessLookupError):  # the launcher does not answer
                os.kill(process, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None, "start opens pipes"
            stream.close()
        os.close(self.marks)
        _remove(self._root)


def _num_tasks(user: int) -> int:
    """Threads of all processes of a user."""
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):  # it has ended
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                found.append(int(name))
    return num_threads(found)


def _remove(root: Path) -> None:
    """Remove a directory, however deep, and with directories that its program closed."""
    path = str(root)
    if subprocess.run(["rm", "-rf", "--", path], stderr=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["chmod", "-R", "u+rwx", "--", path], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", "--", path], stderr=subprocess.DEVNULL, check=False)
