"""Program of the levels without namespaces: starts a shell that can reach little, and outlives all that it starts.

It is run as a file by a bare interpreter, so it imports nothing of ours. Invariant: when it ends, no process that the
shell started is left, also none that left its session: it is their subreaper. Sources: man landlock(7), seccomp(2),
prctl(2).
"""

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
from typing import Any

_SET_PARENT_DEATH_SIGNAL, _SET_SUBREAPER, _SET_NO_NEW_PRIVILEGES, _SET_SECCOMP = 1, 36, 38, 22
_SECCOMP_FILTER = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = (1 << bit for bit in range(4))
_REFER, _TRUNCATE, _DEVICE_CONTROL = 1 << 13, 1 << 14, 1 << 15
_ALL_TCP, _ALL_SCOPES = 3, 3
_NO_START = 97
_ENDING = (signal.SIGTERM, signal.SIGHUP)  # what our parent sends, and what its death does

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Version of Landlock's interface in this kernel; 0 if it has none."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _RULESET_VERSION)), 0)


def main() -> None:
    """Run the job of the first argument, and end with the status of its shell, 128 + n if signal n killed it.

    A signal to this process ends it by that signal.
    """
    job = json.loads(sys.argv[1])
    for number in _ENDING:
        signal.signal(number, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent's affair
    _check(_libc.prctl(_SET_SUBREAPER, 1))
    _check(_libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGHUP))
    ended_by = None
    try:
        if os.getppid() != job["parent"]:  # it ended before we asked to be told
            raise _EndedError(signal.SIGHUP)
        code = _wait_for_shell(job)
    except _EndedError as ended:
        ended_by = ended.args[0]
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    _kill_all()
    if ended_by == signal.SIGHUP:  # our parent is gone, and cannot remove the directory
        os.execv("/bin/sh", ["sh", "-c", 'chmod -R u+rwx -- "$0" && exec rm -rf -- "$0"', job["root"]])
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    sys.exit(code if code >= 0 else 128 - code)


def _wait_for_shell(job: dict[str, Any]) -> int:
    shell = os.fork()
    if not shell:
        _become(job)
    os.close(0)  # the pipe for marks
    while True:
        process, status = os.wait()
        if process == shell:
            return os.waitstatus_to_exitcode(status)


class _EndedError(Exception):
    """A signal of _ENDING came."""


def _end(number: int, frame: object) -> None:
    raise _EndedError(number)


def _become(job: dict[str, Any]) -> None:
    """Turn this process into the job's shell."""
    try:
        for number in (*_ENDING, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores the last two, which a program would inherit
        os.setsid()
        ruleset = _landlock_ruleset(job["landlock"], job["readable"], job["writable"]) if job["landlock"] else None
        os.chdir(job["directory"])
        if job["uid"] is not None:
            os.setgroups([])
            os.setresgid(*[job["uid"]] * 3)
            os.setresuid(*[job["uid"]] * 3)
        _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        if ruleset is not None:
            _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
            os.close(ruleset)
        if job["filter"]:
            _filter_calls(bytes.fromhex(job["filter"]))
        os.execve("/bin/sh", ["sh", "-c", job["script"]], job["environment"])
    except BaseException as error:  # whatever it is, this process must not go on as a copy of the launcher
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(_NO_START)


def _landlock_ruleset(abi: int, readable: list[str], writable: list[str]) -> int:
    handled = (1 << 13) - 1
    for version, right in ((2, _REFER), (3, _TRUNCATE), (5, _DEVICE_CONTROL)):
        handled |= right if abi >= version else 0
    attributes = struct.pack("=QQQ", handled, _ALL_TCP, _ALL_SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path, rights in [
        *((path, _EXECUTE | _READ_FILE | _READ_DIRECTORY) for path in readable),
        *((path, handled & ~_DEVICE_CONTROL) for path in writable),
    ]:
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not os.path.isdir(path):
                rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
            rule = struct.pack("=Qi", rights, file)
            _check(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
            os.close(file)
    return ruleset


def _filter_calls(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    _check(_libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, header, 0, 0))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _kill_all() -> None:
    """Kill every descendant. All are stopped first: stopped, they keep the places that their limit leaves."""
    found = _descendants()
    while found:
        stopped: set[int] = set()
        while new := set(found) - stopped:
            _signal(new, signal.SIGSTOP)
            stopped |= new
            found = _descendants()
        _signal(stopped, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = _descendants()


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _descendants() -> list[int]:
    found = [os.getpid()]
    for process in found:  # grows while it is read
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children") as file:
                    found += map(int, file.read().split())
    return found[1:]


if __name__ == "__main__":
    main()
