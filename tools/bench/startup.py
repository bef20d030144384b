"""Seconds from starting `nemotron4` to its first line of output: --help, a verb's --help, a composed job.

Each command runs `--repeats` times, each time as a new process; all times are recorded, the least first.

    python tools/bench/startup.py --output tools/bench/results/startup.json
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from machine import description, publish

COMMANDS = {
    "nemotron4 --help": 1.0,
    "nemotron4 train --help": 1.0,
    "nemotron4 train --cfg job": 1.5,
    "nemotron4 train experiment=nemotron4_15b --cfg job": 1.5,
}
"""Command -> seconds that it should stay under."""


def seconds_to_first_line(command: str) -> float:
    """From starting the process to its first line of output; raises CalledProcessError if it fails."""
    words = [str(Path(sys.executable).parent / "nemotron4"), *command.split()[1:]]
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        taken = time.perf_counter() - begin
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return taken


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document = description("hydra-core", "omegaconf")
    document["commands"] = {
        command: {
            "seconds": sorted(round(seconds_to_first_line(command), 3) for _ in range(arguments.repeats)),
            "limit_seconds": limit,
        }
        for command, limit in COMMANDS.items()
    }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
