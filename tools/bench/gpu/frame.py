"""Runs checks in processes of their own, against a deadline, and says how each ended.

A part is a list of checks that share a process, forked from this one. The parent never touches CUDA, so every part
begins with a sound device; a check that leaves it unusable, or kills its process, is recorded, and the part goes on in
a new process. Invariant: every check of every part gets exactly one record, printed as one JSON line at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_APPLICABLE, NOT_RUN = "passed", "failed", "not applicable", "not run: time"
_GO_ON = 3
"""Status of a part's process that asks for a new one, because its device is unusable."""
_LOG_BYTES = 2_000

Figures = dict[str, Any]


class CheckFailedError(Exception):
    """What a check found to be wrong; its figures, if any, are recorded too."""

    def __init__(self, message: str, figures: Figures | None = None) -> None:
        super().__init__(message)
        self.figures = figures or {}


class NotApplicableError(Exception):
    """Why a check has no meaning on this machine."""


@dataclass(frozen=True)
class Check:
    """A check, or a measurement that fails only if it cannot be made."""

    run: Callable[[Any], Figures]
    """From the context to figures. Raises CheckFailedError, or NotApplicableError."""
    seconds: float
    """Estimate on one H200; a check is not begun with less than this left."""

    @property
    def name(self) -> str:
        """That of its function."""
        return self.run.__name__


@dataclass(frozen=True)
class Part:
    """Checks that share a process."""

    name: str
    checks: Sequence[Check]


@dataclass(frozen=True)
class Record:
    """How a check ended."""

    part: str
    check: str
    status: str
    seconds: float = 0.0
    reason: str | None = None
    figures: Figures = field(default_factory=dict)

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, {})})


def require(condition: bool, message: str, figures: Figures | None = None) -> None:
    """Fail the check unless the condition holds."""
    if not condition:
        raise CheckFailedError(message, figures)


def run_parts(parts: Sequence[Part], context: Any, deadline: float, log: Path, patient: bool) -> list[Record]:
    """Run every part; `deadline` is a time of time.monotonic(). What parts print goes to the file `log`.

    Unless `patient`, a check that takes several times its estimate is ended, and has failed.
    """
    records = []
    for part in parts:
        for record in _run_part(part, context, deadline, log, patient):
            print(record.line(), flush=True)
            records.append(record)
    return records


def _run_part(part: Part, context: Any, deadline: float, log: Path, patient: bool) -> Iterator[Record]:
    left = list(part.checks)
    while left and time.monotonic() < deadline:
        process, records = _start(part, left, context, deadline, log)
        ended_early = None
        while left:
            limit = deadline if patient else min(deadline, time.monotonic() + 3 * left[0].seconds + 30)
            try:
                ready = records.poll(max(0.0, limit - time.monotonic()))
                record = records.recv() if ready else None
            except EOFError:
                break
            if record is None:
                ended_early = NOT_RUN if limit == deadline else FAILED
                break
            left.pop(0)
            yield record
        _end(process, patience=0.0 if ended_early else 10.0)
        if left and process.exitcode != _GO_ON:
            yield _unfinished(part, left.pop(0), ended_early, process.exitcode, log)
    for check in left:
        yield Record(part.name, check.name, NOT_RUN)


def _unfinished(part: Part, check: Check, ended: str | None, status: int | None, log: Path) -> Record:
    if ended is None:
        said = log.read_text(encoding="utf-8", errors="replace")[-_LOG_BYTES:]
        reason = f"its process ended with status {status}: {said}"
    else:
        reason = "unfinished at the deadline" if ended == NOT_RUN else "took more than 30 s over 3 times its estimate"
    return Record(part.name, check.name, ended or FAILED, reason=reason)


def _start(
    part: Part, checks: Sequence[Check], context: Any, deadline: float, log: Path
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (part.name, checks, context, deadline, log, sender)
    process = multiprocessing.get_context("fork").Process(target=_run_checks, args=arguments)
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    return process, receiver


def _end(process: multiprocessing.process.BaseProcess, patience: float) -> None:
    """Wait some seconds for a process to end; otherwise kill it, with those that it started."""
    process.join(patience)
    if process.is_alive():
        assert process.pid is not None
        with suppress(ProcessLookupError):  # it has not begun yet
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _run_checks(
    part: str, checks: Sequence[Check], context: Any, deadline: float, log: Path, sender: Connection
) -> None:
    """In a part's process: run checks, send their records."""
    os.setsid()
    with log.open("a", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for check in checks:
        print(f"== {part}: {check.name}", file=sys.stderr, flush=True)
        if check.seconds > deadline - time.monotonic():
            sender.send(Record(part, check.name, NOT_RUN))
            continue
        record = _run_check(part, check, context)
        sender.send(record)
        if record.status == FAILED and not context.device_is_sound():
            sender.close()
            os._exit(_GO_ON)


def _run_check(part: str, check: Check, context: Any) -> Record:
    start = time.monotonic()

    def record(status: str, reason: str | None = None, figures: Figures | None = None) -> Record:
        return Record(part, check.name, status, round(time.monotonic() - start, 2), reason, figures or {})

    try:
        return record(PASSED, figures=check.run(context))
    except NotApplicableError as error:
        return record(NOT_APPLICABLE, str(error))
    except CheckFailedError as error:
        return record(FAILED, str(error), error.figures)
    except Exception as error:
        traceback.print_exc()
        return record(FAILED, f"{type(error).__name__}: {str(error)[:_LOG_BYTES]}")
