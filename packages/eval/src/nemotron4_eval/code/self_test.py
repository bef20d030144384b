"""Probes that show, before any program of a model is run, what a sandbox holds on this machine.

Each probe attacks a thing made for it, such as a file or a process, and looks at that thing afterwards. They are
written for sh, the one interpreter that every box has.
"""

import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from nemotron4_eval.code.box import NOBODY
from nemotron4_eval.code.program import Level, Limits, Outcome, Program, Sandbox, Status

RUNNING = "running"
_MIB = 2**20
_LIMITS = Limits(seconds=10, memory_bytes=64 * _MIB, tasks=8, file_bytes=_MIB, output_bytes=2**14)


def failed_probes(sandbox: Sandbox, *, drop: bool) -> dict[str, str]:
    """Names of the probes that the sandbox does not hold, with a line on each. drop: its programs run as nobody.

    If no program runs, no other probe is made.
    """
    if line := _running(sandbox):
        return {RUNNING: line}
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(_PROBES, pool.map(lambda probe: probe(sandbox, drop), _PROBES.values()), strict=True))
    return {name: line for name, line in found.items() if line}


def _sh(sandbox: Sandbox, text: str, limits: Limits = _LIMITS) -> Outcome:
    return sandbox.run(Program(files={}, commands=[["sh", "-c", text]], limits=limits))


def _running(sandbox: Sandbox) -> str:
    program = Program(
        files={"a/b.txt": "held"},
        commands=[["sh", "-c", "cat a/b.txt > c.txt"], ["sh", "-c", 'cat c.txt; echo "$WORD" >&2; exit 3']],
        environment={"WORD": "seen"},
    )
    outcome = sandbox.run(program)
    found = (outcome.status, outcome.exit_code, outcome.stdout, outcome.stderr)
    if found == (Status.wrong, 3, b"held", b"seen\n"):
        return ""
    return outcome.reason or outcome.stderr.decode(errors="replace").partition("\n")[0] or "programs do not run"


def _reading(sandbox: Sandbox, drop: bool) -> str:
    secret = secrets.token_hex()
    with _public_directory() as directory:
        path = directory / "secret"
        path.write_text(secret)
        path.chmod(0o644)
        return "files that all may read: it can read them" * (secret.encode() in _sh(sandbox, f"cat {path}").stdout)


def _writing(sandbox: Sandbox, drop: bool) -> str:
    with _public_directory() as directory:
        _sh(sandbox, f"echo > {directory}/a; ln -s {directory} here; echo > here/b")
        return "files where all may write: it can write them" * bool(list(directory.iterdir()))


def _environment(sandbox: Sandbox, drop: bool) -> str:
    printed = _sh(sandbox, "cat /proc/[0-9]*/environ", Limits(output_bytes=_MIB)).stdout
    ours = {f"{name}={value}".encode() for name, value in os.environ.items() if name not in ("PATH", "PWD", "LANG")}
    return "the environment of other processes: it can read it" * any(
        line in ours for line in printed.replace(b"\n", b"\0").split(b"\0")
    )


def _signals(sandbox: Sandbox, drop: bool) -> str:
    user = NOBODY if drop else None
    with subprocess.Popen(["sleep", "60"], user=user, group=user, extra_groups=[] if drop else None) as victim:
        _sh(sandbox, f"kill -9 {victim.pid}")
        ended = victim.poll() is not None
        victim.kill()
    return "other processes of its user: it can end them" * ended


def _network(sandbox: Sandbox, drop: bool) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        _sh(sandbox, f"bash -c 'echo > /dev/tcp/127.0.0.1/{server.getsockname()[1]}'")
        with suppress(BlockingIOError):
            server.accept()[0].close()
            return "the network: it can connect"
    return ""


def _system_calls(sandbox: Sandbox, drop: bool) -> str:
    return "new user namespaces: it can make them" * (_sh(sandbox, "unshare -U true").status is Status.ok)


def _processes(sandbox: Sandbox, drop: bool) -> str:
    text = "for i in $(seq 40); do sleep 0.3 & done; wait"
    return "processes: it can start more than its limit" * (_sh(sandbox, text).status is Status.ok)


def _memory(sandbox: Sandbox, drop: bool) -> str:
    outcome = _sh(sandbox, "x=0123456789abcdef; while :; do x=$x$x; done")
    return "memory: it can take more than its limit" * (outcome.status in (Status.ok, Status.timeout))


def _output(sandbox: Sandbox, drop: bool) -> str:
    outcome = _sh(sandbox, "while :; do echo 0123456789abcdef; done")
    return "output: it can print more than its limit" * (outcome.status is not Status.too_much_output)


def _files(sandbox: Sandbox, drop: bool) -> str:
    outcome = _sh(sandbox, f"head -c {4 * _MIB} /dev/urandom > a")
    return "files: they can be larger than their limit" * (outcome.status is Status.ok)


def _time(sandbox: Sandbox, drop: bool) -> str:
    seconds = f"60.{secrets.randbelow(10**9):09}"
    outcome = _sh(sandbox, f"(setsid sleep {seconds} >/dev/null 2>&1 &); sleep {seconds}", Limits(seconds=0.2))
    return "time: it can run on after its limit" * (outcome.status is not Status.timeout or _runs(seconds))


def _runs(argument: str) -> bool:
    """Whether a process has this argument, and is no longer being killed."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                return True
    return False


_PROBES: dict[str, Callable[[Sandbox, bool], str]] = {
    "reading": _reading,
    "writing": _writing,
    "environment": _environment,
    "signals": _signals,
    "network": _network,
    "system calls": _system_calls,
    "processes": _processes,
    "memory": _memory,
    "output": _output,
    "files": _files,
    "time": _time,
}


_ESSENTIAL = {RUNNING, "reading", "writing", "environment", "memory", "output", "files", "time"}
NEEDED = {
    Level.namespaces: {RUNNING, *_PROBES} - {"system calls"},  # not known for every processor
    Level.landlock: _ESSENTIAL,
}
"""Probes that a level must hold to be used."""


@contextmanager
def _public_directory() -> Iterator[Path]:
    """A new directory in which every user may read and write."""
    with tempfile.TemporaryDirectory(prefix="nemotron4-probe-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)
