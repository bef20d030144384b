"""A real Slurm on this machine: one controller and virtual nodes, in a directory of its own, stopped afterwards.

Needs Debian's slurm-wlm and munge, and root. Two nodes take jobs; 288 more are declared for `sbatch --test-only`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NODES = ("n1", "n2")
BIG_NODES = 288
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")


def missing() -> str | None:
    """Why there can be no cluster here; None when there can."""
    if os.geteuid() != 0:
        return "not root: munged and slurmd start as root"
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    absent = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)" if absent else None


def configuration(directory: Path, controller_port: int, node_ports: list[int]) -> str:
    """slurm.conf; a dead node is noticed in seconds, and a queued-again job starts in seconds."""
    host = socket.gethostname()
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000 State=UNKNOWN"
        for name, port in zip(NODES, node_ports, strict=True)
    ]
    return "\n".join(
        [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            f"AuthInfo=socket={directory}/munge.socket,cred_expire=5",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "ReturnToService=2",
            f"SlurmctldPort={controller_port}",
            f"StateSaveLocation={directory}/state",
            f"SlurmdSpoolDir={directory}/spool/%n",
            f"SlurmctldPidFile={directory}/slurmctld.pid",
            f"SlurmdPidFile={directory}/slurmd-%n.pid",
            f"SlurmctldLogFile={directory}/slurmctld.log",
            f"SlurmdLogFile={directory}/slurmd-%n.log",
            "SlurmdTimeout=10",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "KillWait=5",
            "MinJobAge=60",
            "JobRequeue=1",
            "GresTypes=gpu",
            "SlurmdParameters=config_overrides",
            *nodes,
            f"NodeName=h[001-{BIG_NODES}] NodeHostname={host} NodeAddr=127.0.0.1 Port=1 CPUs=112 RealMemory=2000000"
            " Gres=gpu:8 State=CLOUD",
            f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=60 State=UP",
            f"PartitionName=big Nodes=h[001-{BIG_NODES}] MaxTime=2880 State=UP",
        ]
    )


class Cluster:
    """The daemons; `environment` is what a client needs to reach them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"SLURM_CONF": str(directory / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start it; RuntimeError with the daemons' logs when its nodes do not come up."""
        self.directory.chmod(0o755)
        for name in ("state", "spool"):
            (self.directory / name).mkdir()
        ports = _free_ports(1 + len(NODES))
        (self.directory / "slurm.conf").write_text(configuration(self.directory, ports[0], ports[1:]) + "\n")
        gres = f"NodeName=h[001-{BIG_NODES}] Name=gpu Count=8\n"
        (self.directory / "gres.conf").write_text(gres)
        (self.directory / "cgroup.conf").write_text("")
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = (f"--key-file={key}", *(f"--{option}={self.directory}/munge.{name}" for option, name in files.items()))
        self._start("munged", "munged", "--foreground", "--force", *munge)
        _until(lambda: (self.directory / "munge.socket").exists(), 10, "munged made no socket")
        self._start("slurmctld", "slurmctld", "-D", "-i")
        for name in NODES:
            self.start_node(name)
        _until(self._is_up, 60, f"the nodes of Slurm did not come up: {self._logs()}")

    def start_node(self, name: str) -> None:
        """Start one node's daemon."""
        (self.directory / "spool" / name).mkdir(exist_ok=True)
        self._start(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """SIGKILL a node's daemon and everything it started: as when its machine dies."""
        daemon = self._daemons.pop(name)
        for pid in [daemon.pid, *_processes_on(name)]:
            _kill(pid, signal.SIGKILL)
        daemon.wait()

    def stop(self) -> None:
        """Cancel everything, then stop the daemons."""
        subprocess.run(["scancel", "--me"], env=os.environ | self.environment, check=False, capture_output=True)
        with contextlib.suppress(RuntimeError, AssertionError):
            _until(lambda: not self.client("squeue", "--noheader").strip(), 20, "jobs are left")
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def client(self, *command: str) -> str:
        """Run a client of Slurm; its output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def _start(self, name: str, *command: str) -> None:
        path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
        command = ("setpriv", "--pdeathsig", "KILL", *command)  # it never outlives the tests
        with open(self.directory / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=os.environ | self.environment | {"PATH": path}, stdout=log, stderr=log
            )

    def _is_up(self) -> bool:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"],
            env=os.environ | self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return shown.stdout.split() == ["idle"] * len(NODES)

    def _logs(self) -> str:
        return "\n".join(path.read_text()[-2_000:] for path in self.directory.glob("*.log"))


def _processes_on(node: str) -> set[int]:
    """What a virtual node runs, and what Slurm holds it by: everything but its daemon."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURMD_NODENAME={node}".encode() in (process / "environ").read_bytes().split(b"\0"):
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                found |= {
                    int(process.name),
                    *([parent] if "slurmstepd" in Path(f"/proc/{parent}/comm").read_text() else []),
                }
    return found


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _until(condition, seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.2)
