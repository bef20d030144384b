"""Run the benchmarks one after another, each in its own process, and write docs/performance.md from their results.

    python tools/bench/suite.py                 all of them
    python tools/bench/suite.py decode startup  these
    python tools/bench/suite.py --page          the page alone, from the results that lie in tools/bench/results

Invariant: a result is replaced by a whole one or not at all. A benchmark whose packages are missing is named and left
out; one that fails leaves its old result as it was and its output in build/bench, and the status is 1.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areas import AREAS
from benchmark import Benchmark
from inputs import Inputs
from page import write_page

BENCH = Path(__file__).parent
RESULTS = BENCH / "results"
BENCHMARKS = tuple(benchmark for area in AREAS for benchmark in area.benchmarks)
LINES_SHOWN = 15
"""Of the output of a benchmark that failed."""
STOPPED = "stopped"
SECONDS_LOOKED = 1.0
"""At what other programs do, before each benchmark."""


class FailedError(Exception):
    """A benchmark that failed: the end of what it said, and why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a benchmark."""

    name: str
    seconds: float
    said: str
    failed: bool = False


def run(benchmark: Benchmark, inputs: Inputs, toy: bool, output: Path) -> dict[str, Any]:
    """Run one and replace its result, which is returned; FailedError leaves `output` as it was."""
    try:
        words = [word.format_map(inputs) for word in (benchmark.toy if toy else benchmark.arguments)]
    except subprocess.CalledProcessError as error:
        raise FailedError(f"making what it reads: {error}") from error
    staged, log = inputs.directory / f"{benchmark.name}.staged.json", inputs.directory / f"{benchmark.name}.log"
    staged.unlink(missing_ok=True)
    program = BENCH / f"{benchmark.program or benchmark.name}.py"
    busy = busy_cores(0.02 if toy else SECONDS_LOOKED)
    with log.open("w", encoding="utf-8") as file:
        status = _status((sys.executable, str(program), *words, "--output", str(staged)), file, benchmark.minutes)
    if status or not staged.exists():
        reason = f"ended with status {status}" if status else "wrote no result"
        raise FailedError(f"{_last_lines(log.read_text(encoding='utf-8', errors='replace'))}\n{reason}; see {log}")
    result: dict[str, Any] = json.loads(staged.read_text(encoding="utf-8"))
    # The load average that programs record is that of the benchmark before, where they run one after another.
    result["machine"]["busy_cores_before"] = round(busy, 2)
    staged.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    staged.replace(output)
    return result


def _status(command: Sequence[str], log: Any, minutes: float) -> int | str:
    """Run a command with the processes that it starts, of which none is left when this returns."""
    # Contestants that wait for their turn must not spin.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    limit = 10 + 4 * minutes
    try:
        return process.wait(60 * limit)
    except subprocess.TimeoutExpired:
        return f"none after {limit:g} minutes"
    finally:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_lines(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-LINES_SHOWN:])


def missing_packages(benchmark: Benchmark) -> list[str]:
    """Names that cannot be imported."""
    return [name for name in benchmark.packages if importlib.util.find_spec(name) is None]


def run_all(benchmarks: Sequence[Benchmark], toy: bool) -> list[Outcome]:
    """What became of each; ends early, with those so far, on Ctrl-C."""
    inputs, begin = Inputs(toy), time.monotonic()
    outcomes: list[Outcome] = []
    for number, benchmark in enumerate(benchmarks):
        passed, left = (time.monotonic() - begin) / 60, sum(each.minutes for each in benchmarks[number:])
        time_left = "" if toy else f"{passed:.0f} minutes so far, about {left:.0f} left: "
        print(f"{number + 1}/{len(benchmarks)}, {time_left}{benchmark.name}", flush=True)
        output = inputs.directory / f"{benchmark.name}.json" if toy else RESULTS / f"{benchmark.name}.json"
        try:
            outcomes.append(_outcome(benchmark, inputs, toy, output))
        except KeyboardInterrupt:
            outcomes.append(Outcome(benchmark.name, 0, STOPPED, failed=True))
            break
    return outcomes


def _outcome(benchmark: Benchmark, inputs: Inputs, toy: bool, output: Path) -> Outcome:
    if lacking := missing_packages(benchmark):
        return Outcome(benchmark.name, 0, f"left out: needs {', '.join(lacking)}")
    begin = time.monotonic()
    try:
        result = run(benchmark, inputs, toy, output)
    except (FailedError, ValueError) as error:
        print(error, flush=True)
        return Outcome(benchmark.name, time.monotonic() - begin, "failed", failed=True)
    absent = "; ".join(f"{name} ({reason})" for name, reason in result.get("left_out", {}).items())
    return Outcome(benchmark.name, time.monotonic() - begin, f"ok, without {absent}" if absent else "ok")


def busy_cores(seconds: float) -> float:
    """How many cores all processes together keep busy, looked at for so long."""
    begin, busy = _clocks()
    time.sleep(seconds)
    end, busy_then = _clocks()
    return (busy_then - busy) / (end - begin)


def _clocks() -> tuple[float, float]:
    """Seconds by the clock, and of all cores not idle."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:8]]
    return time.monotonic(), (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit status."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; all if none is given")
    parser.add_argument("--toy", action="store_true", help="at toy size, in build/bench/toy; the page is left alone")
    parser.add_argument("--page", action="store_true", help="write the page, and end")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.names if name not in names]:
        print(f"{', '.join(unknown)}: no such benchmark; choose from {', '.join(names)}", file=sys.stderr)
        return 2
    outcomes = []
    if not arguments.page:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if (busy := busy_cores(SECONDS_LOOKED)) > len(os.sched_getaffinity(0)) / 4:
            print(f"other programs keep {busy:.1f} cores of this machine busy: times will be longer than they need be")
        asked = arguments.names or names
        outcomes = run_all([each for each in BENCHMARKS if each.name in asked], arguments.toy)
        print(*(f"{each.name:24} {each.seconds:6.0f} s  {each.said}" for each in outcomes), sep="\n", flush=True)
    if not arguments.toy:
        write_page(RESULTS)
    if outcomes and outcomes[-1].said == STOPPED:
        return 128 + signal.SIGINT
    return int(any(each.failed for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
