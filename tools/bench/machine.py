"""What every bench records beside its figures, and where they go."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def description(*libraries: str, **more: int) -> dict[str, Any]:
    """The machine, its load at this moment (ask before measuring), versions and the commit ("-dirty": and more)."""
    describe = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty")
    commit = subprocess.run(describe, capture_output=True, text=True, check=True)
    return {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            **more,
            "load_average_at_start": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "commit": commit.stdout.strip(),
    }


def publish(document: dict[str, Any], output: Path | None) -> None:
    """Print, and write where it is asked for."""
    text = json.dumps(document, indent=2) + "\n"
    print(text)
    if output:
        output.write_text(text, encoding="utf-8")


def processor() -> str:
    """Name of the processor as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
