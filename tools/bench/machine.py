"""What every benchmark records besides its results, and writing them."""

import ctypes
import gc
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def description(*libraries: str, **more: int) -> dict[str, Any]:
    """Machine, its load now (call before measuring), versions, commit ("-dirty": with uncommitted changes), date."""
    return {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            **more,
            "load_average_at_start": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def commit() -> str:
    """The commit of this file's repository, "unknown" where git or the repository is missing.

    Changed results and documentation do not make it dirty: benchmarks run one after another write them.
    """
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *_WRITTEN)
        return _git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


_WRITTEN = (":(top,exclude)tools/bench/results", ":(top,exclude)docs")


def _git(*words: str) -> str:
    command = ("git", "-C", str(Path(__file__).parent), *words)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def publish(document: dict[str, Any], output: Path | None) -> None:
    """Print a document, and write it if `output` is given."""
    text = json.dumps(document, indent=2) + "\n"
    print(text)
    if output:
        output.write_text(text, encoding="utf-8")


def status_kilobytes(field: str) -> int:
    """A field of this process's status. getrusage's peak survives exec, so that a large parent would hide a child's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


def trim_memory() -> None:
    """Return to the system what this process no longer uses."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Begin the peak of resident memory, VmHWM, anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def processor() -> str:
    """Name of the processor according to the system."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
