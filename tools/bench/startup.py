"""Seconds that a user waits: from the shell to help, to a composed job, to a first step; and what imports take.

A command's time is from starting its process to its first line of output, of a run to the line of its first step, with
files and bytecode in the caches of a machine that has just run it. An import is timed inside a fresh process. Commands
and imports take turns, `--repeats` rounds of them. What an import spends in packages of others is the time in their own
modules by `-X importtime`, once, scaled to the median, as that option takes time too.

    python tools/bench/startup.py --corpus build/bench/full/corpus --output tools/bench/results/startup.json
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from machine import description, publish

COMMANDS = {
    "nemotron4 --help": 0.5,
    "nemotron4 train --help": 1.0,
    "nemotron4 train --cfg job": 1.0,
    "nemotron4 train experiment=nemotron4_15b --cfg job": 1.0,
}
"""Command -> seconds that it should stay under."""
FIRST_STEP = "nemotron4 train experiment=smoke model=nano_1m"
IMPORTS = {
    "nemotron4_common": "",
    "nemotron4_config": "",
    "nemotron4_model": "",
    "nemotron4_data": "",
    "nemotron4_infer": "",
    "nemotron4_eval": "",
    "nemotron4_train": "",
    "torch": "for comparison",
    "nemotron4_train.lightning.fit": "all that trains",
    "nemotron4_infer.server.run": "all that serves",
}
"""Module -> what it is, where the name does not say so."""


def seconds_to_line(command: str, *more: str, beginning: str = "") -> float:
    """From starting a command to its first line, or the first that has `beginning` in it; raises CalledProcessError
    if it ends without. It is then stopped."""
    words = [str(Path(sys.executable).parent / "nemotron4"), *command.split()[1:], *more]
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            taken = time.perf_counter() - begin
            said.append(line)
            if beginning in line:
                process.kill()
                return taken
    raise subprocess.CalledProcessError(process.returncode, words, output="".join(said))


def seconds_to_first_step(corpus: Path) -> float:
    """Of a run of a tiny model."""
    with tempfile.TemporaryDirectory() as runs:
        options = (f"data.dir={corpus}", f"run.root={runs}", "trainer.max_steps=1", "trainer.log_interval_steps=1")
        return seconds_to_line(FIRST_STEP, *options, beginning="step 1/")


def seconds_to_import(module: str) -> float:
    """In a fresh process."""
    script = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def shares_of_others(module: str) -> list[tuple[str, float]]:
    """The three packages of others with the largest shares of an import, largest first."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    by_package: Counter[str] = Counter()
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", said, re.MULTILINE):
        by_package[name.split(".")[0]] += int(own)
    installed = packages_distributions()
    others = [
        (name, spent)
        for name, spent in by_package.most_common()
        if name in installed and not name.startswith("nemotron4")
    ]
    return [(name, spent / by_package.total()) for name, spent in others[:3]]


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"seconds": round(median, 3), "quartiles": [round(low, 3), round(high, 3)]}


def main() -> None:
    """Measure; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="a prepared corpus that experiment=smoke can train on"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--imports", nargs="+", choices=IMPORTS, default=list(IMPORTS), metavar="MODULE")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    document = description("hydra-core", "omegaconf", "torch", "lightning")
    document["what"] = "median and quartiles, in turns; an import's three packages of others with most time"
    document["repeats"] = arguments.repeats
    rounds = [one_round(arguments.corpus, arguments.imports) for _ in range(arguments.repeats)]
    document |= {"commands": {}, "imports": {}}
    for name in (*COMMANDS, FIRST_STEP):
        document["commands"][name] = summary([each[name] for each in rounds]) | {"limit_seconds": COMMANDS.get(name)}
    for name in arguments.imports:
        found = summary([each[name] for each in rounds])
        others = {other: round(share * found["seconds"], 3) for other, share in shares_of_others(name)}
        document["imports"][name] = found | {"seconds_of_others": others}
    publish(document, arguments.output)


def one_round(corpus: Path, modules: list[str]) -> dict[str, float]:
    """Seconds of each, by name."""
    commands = {command: seconds_to_line(command) for command in COMMANDS}
    return {
        **commands,
        FIRST_STEP: seconds_to_first_step(corpus),
        **{module: seconds_to_import(module) for module in modules},
    }


if __name__ == "__main__":
    main()
