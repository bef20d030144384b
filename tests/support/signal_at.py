"""An export that a real signal ends at a chosen file event: `python -c "import signal_at; signal_at.main(...)"`.

Each attempt is a forked process that signals itself as it opens, renames, lists or removes something on a path.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def main(pickle_path: str, signal_name: str, most: str) -> None:
    """Print [status, last words, whether the export stands, what is beside it] of at least `most` attempts as JSON."""
    from nemotron4_train.checkpoints.export import export_checkpoint

    job, train_job = pickle.loads(Path(pickle_path).read_bytes())
    directory = Path(job.dir)

    def export(_: object) -> int:
        export_checkpoint(job, train_job)
        return 0

    export(None)  # what it imports is there for all that follow
    number = getattr(signal, signal_name)
    _, _, num_events = attempt(export, directory, number, at=0)
    found = []
    for at in range(1, num_events + 1, max(1, num_events // int(most))):
        status, said, _ = attempt(export, directory, number, at)
        found.append([status, said, (directory / "config.json").is_file(), sorted(os.listdir(directory.parent))])
    print(json.dumps(found))


def attempt(run: Callable[[object], int], directory: Path, number: int, at: int) -> tuple[int, str, int]:
    """The status, what it said on standard error, and the number of events; the signal comes at event `at`."""
    from nemotron4_config.interruption import reporting_signals

    said_read, said_write = os.pipe()
    count_read, count_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(said_write, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        events = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal events
            if event.partition(".")[0] in ("open", "os", "shutil") and any(str(directory) in str(a) for a in arguments):
                events += 1
                if events == at:
                    os.kill(os.getpid(), number)

        sys.addaudithook(watch)
        status = reporting_signals("nemotron4 export", run)
        os.write(count_write, str(events).encode())
        sys.stderr.flush()
        os._exit(status)
    os.close(said_write)
    os.close(count_write)
    with os.fdopen(count_read) as count, os.fdopen(said_read) as said:
        words, events_seen = said.read(), count.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words, int(events_seen or 0)
