"""Start: from the shell to help, to a job, to a step; what imports take."""

from benchmark import Area, Benchmark, Result, Row
from startup import COMMANDS, FIRST_STEP, IMPORTS


def _seconds(found: Result) -> str:
    low, high = found["quartiles"]
    return f"{found['seconds']:.2f} s ({low:.2f} to {high:.2f})"


def _imported(module: str, result: Result) -> str:
    found = result["imports"][module]
    others = ", ".join(
        f"{name} {seconds:.2f}" for name, seconds in found["seconds_of_others"].items() if seconds > 0.01
    )
    return _seconds(found) + (f"; {others}" if others else "")


def _row_of_command(command: str, limit: float) -> Row:
    return Row(
        what=f"`{command}`, to its first line",
        benchmark="startup",
        value=lambda result: _seconds(result["commands"][command]),
        goal=f"< {limit} s",
        met=lambda result: result["commands"][command]["seconds"] < limit,
    )


def _row_of_import(module: str, what: str) -> Row:
    return Row(
        what=f"`import {module}`" + (f", {what}" if what else ""),
        benchmark="startup",
        value=lambda result: _imported(module, result),
    )


AREA = Area(
    title="Start",
    benchmarks=(
        Benchmark(
            "startup",
            arguments=("--corpus", "{corpus}"),
            toy=("--corpus", "{corpus}", "--repeats", "1", "--imports", "nemotron4_common", "nemotron4_model"),
            minutes=1.1,
        ),
    ),
    rows=(
        *(_row_of_command(command, limit) for command, limit in COMMANDS.items()),
        Row(
            what=f"`{FIRST_STEP}`, to the line of its first step",
            benchmark="startup",
            value=lambda result: _seconds(result["commands"][FIRST_STEP]),
        ),
        *(_row_of_import(module, what) for module, what in IMPORTS.items()),
    ),
    text="Each command is a new process, whose files the machine has cached; median and quartiles of rounds. Behind the"
    " time of an import stand the three packages of others that take most of it.",
)
