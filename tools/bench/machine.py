"""What the benches record of the machine they ran on."""

import platform
from pathlib import Path


def processor() -> str:
    """Name of the processor as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
