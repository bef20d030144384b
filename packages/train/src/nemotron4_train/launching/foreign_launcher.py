"""What our own launcher does around the workers; they do it themselves when Slurm or torchrun started them.

Rank 0 takes the run's lock, and waits for it a while: ranks of an unresponsive node may still be shutting down. The
first rank that fails writes the reason into the run's record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nemotron4_train.launching.environment import LAUNCHER_PID
from nemotron4_train.run_directory import RunState, exclusive, note_start, only_writer, read_record, record_failure

_WAIT_SECONDS = 120.0


@contextmanager
def watched(run: Path) -> Iterator[None]:
    """Wrap a rank's work; does nothing under our own launcher. Raises ValueError when the run's lock is held."""
    if LAUNCHER_PID in os.environ:
        yield
        return
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            stack.enter_context(exclusive(run, _WAIT_SECONDS))
            note_start(run)
        try:
            yield
        except Exception as error:
            with only_writer(run):
                found = read_record(run)
                if found is None or found.state is RunState.running:
                    record_failure(run, error)
            raise
