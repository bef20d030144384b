"""A verb that costs nothing, for tests of sweeps: `python -m fake_verb OVERRIDES` is the command line with it alone.

Its files go into the working directory: `started-X` when job x=X has started, `go` lets the jobs that wait end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from nemotron4_config import Command
from nemotron4_config.interruption import reporting_signals
from nemotron4_config.main import run_reporting_errors

YAML = """\
defaults:
  - common
  - _self_
"""


@dataclass
class FakeLauncher:
    max_jobs_at_once: int = 1


@dataclass
class FakeJob:
    x: float = 1.0
    action: str = "end"
    launcher: FakeLauncher = field(default_factory=FakeLauncher)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"x ({self.x}): must be at least 0")


def run(job: FakeJob) -> float | None:
    """Do what the action says; the objective tells whether Hydra runs in this process."""
    if job.action == "wait":
        signal.signal(signal.SIGTERM, leave)
    Path(f"started-{job.x:g}").write_text(str(os.getpid()))
    print("threads:", os.environ.get("OMP_NUM_THREADS"))
    if job.action == "raise" and not Path("go").exists():
        raise RuntimeError("of its\nown accord")
    if job.action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.action == "overlap":
        with open("events", "a") as events:
            events.write("+")
            events.flush()
            await_file(lambda: Path("events").read_text().count("+") >= 2)
            events.write("-")
    if job.action == "wait":
        await_file(Path("go").exists)
    if job.action == "say":
        return None
    return job.x if job.action == "x" else float("hydra" in sys.modules)


def leave(number: int, frame: FrameType | None) -> None:
    """As a run that saves and then stops."""
    time.sleep(0.2)
    Path("saved").touch()
    raise SystemExit(75)


def await_file(condition: Callable[[], bool], limit_seconds: float = 60) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {limit_seconds} seconds"
        time.sleep(0.01)


def run_elsewhere(jobs: list[tuple[Path, FakeJob]], report: Callable[[int, float | None, str | None], None]) -> bool:
    """Takes the jobs whose action is "submit", in any order."""
    if any(job.action != "submit" for _, job in jobs):
        return False
    for index, (directory, job) in reversed(list(enumerate(jobs))):
        assert (directory / "sweep_job.yaml").is_file()
        report(index, None if job.x == 2 else job.x, "lost its node" if job.x == 2 else None)
    return True


def fake_verb(*overrides: str, **fields: Any) -> int:
    """The command line in this process; returns its exit status."""
    Path("conf").mkdir(exist_ok=True)
    Path("conf", "fake.yaml").write_text(YAML)
    command = Command(job="fake_verb:FakeJob", run="fake_verb:run", summary="", **fields)
    overrides = [f"--config-dir={Path('conf').resolve()}", *overrides]
    return reporting_signals("fake", lambda signals: run_reporting_errors("fake", command, overrides, signals))


if __name__ == "__main__":
    sys.exit(fake_verb(*sys.argv[1:]))
