"""The levels without namespaces: Landlock and a filter of system calls, or nothing but limits.

Invariants: a program has a directory of its own, which is removed with all that is in it; its processes are killed
with their launcher. What it could do to our other processes and files is bounded as `cannot_hold` says.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage

from nemotron4_eval.code.box import (
    DEVICES,
    ENVIRONMENT,
    MAX_FILES,
    NOT_COUNTED,
    WORK_BYTES,
    Box,
    as_bytes,
    is_inside,
    run_in_box,
    script,
    toolchain_paths,
)
from nemotron4_eval.code.processes import BLOCK, deleted_bytes, descendants, num_threads
from nemotron4_eval.code.program import Level, Outcome, Program, Sandbox
from nemotron4_eval.code.seccomp import filter_program

# Of /proc, where mono and Rscript look for themselves, Landlock keeps others' memory and environment.
_READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc")
_USERS = range(61184, 65520)  # nobody's for long: systemd lends them to services while they run
_MAX_PATH = 1000  # characters
_SPARE_TASKS = 2048  # the limit on a user's processes is shared with other programs; the watch holds ours


class LauncherSandbox(Sandbox):
    """Runs programs through the launcher. `abi`: Landlock's version, 0 for the level of limits."""

    def __init__(self, abi: int, *, drop: bool) -> None:
        self._abi, self._drop = abi, drop
        self.level = Level.landlock if abi else Level.limits
        self._filter = filter_program(sockets=False, signals=abi >= 6) if abi else None
        self.cannot_hold = tuple(self._weaknesses())

    def _weaknesses(self) -> Iterator[str]:
        files = "that all may write" if self._drop else "of yours, and that all may write"
        if not self._abi:
            yield from (f"files {files}: it can read and change them", "the network: it can connect")
            if not self._drop:
                yield "processes of yours: it can read and end them"
            return
        yield "the names and commands of all processes: it can read them"
        yield f"files {files}: it can change their times" + ("" if self._drop else " and permissions")
        if self._abi < 3:
            yield f"files {files}: it can empty them (held from version 3 of Landlock on; this is {self._abi})"
        if self._abi < 6 and not self._drop:
            yield f"processes of yours: it can end them by tgkill (held from version 6 on; this is {self._abi})"
        yield "disk: files that it deleted and has mapped do not count, until it ends"
        if not self._filter:
            yield "sockets and rare system calls: this processor's numbers are not known"
        yield from NOT_COUNTED

    def run(self, program: Program) -> Outcome:
        """Run a program; never raises for what the program does."""
        return run_in_box(lambda: _DirectoryBox(self, program), program)

    def take_user(self) -> int | None:
        """The user that a program runs as; None if that is ours."""
        return _take_user() if self._drop else None

    def start(self, program: Program, root: Path, marks: int, user: int | None) -> subprocess.Popen[bytes]:
        """Start the launcher; the program's standard input is `marks`, its directory is in `root`."""
        work = str(root / "work")
        job = {
            "landlock": self._abi,
            "filter": self._filter.hex() if self._filter else None,
            "uid": user,
            "parent": os.getpid(),
            "root": str(root),
            "directory": work,
            "readable": [*_READABLE, *toolchain_paths(), *program.read_only],
            "writable": [str(root), *DEVICES],
            "script": script(program, tasks=_num_tasks(os.getuid()) + _SPARE_TASKS if user is None else None),
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

    def fill(self, root: Path, program: Program, user: int | None) -> None:
        """Write the program's files, in directories that it may write."""
        if disk_usage(root).free < 2 * WORK_BYTES:
            raise OSError(f"{root.parent}: less than {2 * WORK_BYTES // 2**20} MB are free")
        for name in ("work", "tmp"):
            (root / name).mkdir()
        for name, content in program.files.items():
            assert is_inside(name), f"{name} is not inside the program's directory"
            path = root / "work" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_bytes(content))
        if user is not None:
            for path in (root, *root.rglob("*")):
                os.chown(path, user, user)


class _DirectoryBox(Box):
    def __init__(self, sandbox: LauncherSandbox, program: Program) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="nemotron4-sandbox-"))
        self.marks, theirs = os.pipe()
        self._user = sandbox.take_user()
        try:
            sandbox.fill(self._root, program, self._user)
            self.process = sandbox.start(program, self._root, theirs, self._user)
        except BaseException:
            os.close(self.marks)
            self._remove()
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
        size, number = deleted_bytes(self.processes()), 0
        directories = [str(self._root)]
        for directory in directories:  # grows while it is read
            if len(directory) > _MAX_PATH:  # it would take long
                return size, MAX_FILES + 1
            try:
                entries = list(os.scandir(directory))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:  # closed to us
                return size, MAX_FILES + 1
            number += len(entries)
            for entry in entries if number <= MAX_FILES else ():
                with suppress(OSError):  # it has been removed
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    size += entry.stat(follow_symlinks=False).st_blocks * BLOCK
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
        self._remove()

    def _remove(self) -> None:
        """Remove the directory, however deep, and with directories that its program closed."""
        path = str(self._root)
        if subprocess.run(["rm", "-rf", "--", path], stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run(["chmod", "-R", "u+rwx", "--", path], stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["rm", "-rf", "--", path], stderr=subprocess.DEVNULL, check=False)
        if self._user is not None:
            _taken.discard(self._user)


_taken: set[int] = set()
_taking = threading.Lock()


def _take_user() -> int:
    """A user that has no process, so that a program shares no limit and cannot reach another's files."""
    with _taking:
        user: int = secrets.choice([*{*_USERS} - _taken - _owners().keys()])
        _taken.add(user)
    return user


def _owners() -> dict[int, list[int]]:
    """The processes of each user that has any."""
    found: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            found.setdefault(os.stat(f"/proc/{name}").st_uid, []).append(int(name))
    return found


def _num_tasks(user: int) -> int:
    """Threads of all processes of a user."""
    return num_threads(_owners().get(user, []))
