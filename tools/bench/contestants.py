"""Ours and others take turns, each in a process of its own, so that a busy machine affects all of them equally.

Invariant: within a round every contestant does the same work once; a ratio is the median of the ratios within rounds.
"""

import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TakeTurn = Callable[..., dict[str, Any]]
"""Work -> figures, of which "speed" is compared: more is better."""
FORKS = multiprocessing.get_context("fork")
"""Of a process in which the libraries are imported already: importing takes seconds."""


def start(program: Path, *words: str) -> subprocess.Popen[str]:
    """A program of this folder, which is spoken to through its standard input and output. Tests put a fork in this
    place, which imports nothing again."""
    return subprocess.Popen(
        [sys.executable, str(program), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


class Contestant:
    """A benchmark's own program, started with `--compete NAME`; it answers one line of JSON with another."""

    def __init__(self, program: Path, name: str, *options: str) -> None:
        self._process = start(program, *options, "--compete", name)
        self._name = name

    def take_turn(self, *work: Any) -> dict[str, Any]:
        """The figures of one turn; the program ends if the contestant has died."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name}: died; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def leave(self) -> None:
        """End the process."""
        self._process.communicate()


class Fork:
    """A contestant that is a fork of this process, so that it need not import anything. This process must not have
    computed with torch: a fork of one with threads hangs."""

    def __init__(self, make: Callable[[], TakeTurn]) -> None:
        self._end, other = FORKS.Pipe()
        FORKS.Process(target=_serve, args=(other, make), daemon=True).start()
        other.close()

    def take_turn(self, *work: Any) -> dict[str, Any]:
        """The figures of one turn; the program ends if the contestant has died."""
        self._end.send(work)
        try:
            answer: dict[str, Any] = self._end.recv()
        except EOFError:
            sys.exit("a contestant died; its message is above")
        return answer

    def leave(self) -> None:
        """End it."""
        self._end.send(None)


def _serve(end: Connection, make: Callable[[], TakeTurn]) -> None:
    take_turn = make()
    while (work := end.recv()) is not None:
        end.send(take_turn(*work))


def compete(take_turn: TakeTurn) -> None:
    """A contestant's side: answer every line of work until there is no more."""
    for line in sys.stdin:
        print(json.dumps(take_turn(*json.loads(line))), flush=True)


def turns(contestants: Mapping[str, TakeTurn], work: tuple[Any, ...], rounds: int) -> list[dict[str, dict[str, Any]]]:
    """Figures by contestant, a dictionary a round, after one round that is not counted."""
    return [{name: take_turn(*work) for name, take_turn in contestants.items()} for _ in range(rounds + 1)][1:]


def compared(rounds: list[dict[str, dict[str, Any]]], base: str, digits: int = 1) -> dict[str, dict[str, Any]]:
    """By contestant: median speed, and median ratio to `base` with its quartiles."""
    found = {}
    for name in rounds[0]:
        ratios = sorted(each[name]["speed"] / each[base]["speed"] for each in rounds)
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        found[name] = {
            "speed": round(statistics.median(each[name]["speed"] for each in rounds), digits),
            "ratio": round(statistics.median(ratios), 2),
            "quartiles": [round(low, 2), round(high, 2)],
        }
    return found
